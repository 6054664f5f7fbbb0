//! Who may load programs into the kernel here: root, or whoever sudo lets become root.

use std::env;
use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// How a program can be run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// Through sudo, without asking.
    Sudo,
    /// Through sudo, which will ask for a password.
    SudoAsks,
    /// Not at all.
    None,
}

impl Privilege {
    /// What is possible now.
    pub(crate) fn probe() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self::Root;
        }
        let sudo = |arguments: &[&str]| {
            let mut command = Command::new("sudo");
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().ok().map(|status| status.success())
        };
        match sudo(&["-n", "true"]) {
            Some(true) => Self::Sudo,
            Some(false) => Self::SudoAsks,
            None => Self::None,
        }
    }

    /// A command that runs `program` as root, or why there is none.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        match self {
            Self::Root => Ok(Command::new(program)),
            Self::Sudo | Self::SudoAsks => {
                let mut command = Command::new("sudo");
                command.arg(program);
                Ok(command)
            }
            Self::None => {
                anyhow::bail!("loading programs into the kernel needs root, and there is no sudo: run this as root")
            }
        }
    }
}

/// Whether this run is a CI job, where nothing may be left out quietly.
pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}

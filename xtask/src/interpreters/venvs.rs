//! Environments with packages from the Python index, below `target/venvs`: what services are made of, and the profiler that
//! ours is measured against. Only wheels: nothing is compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use profiler_tests::interpreters::{COMPLETE, Found, Interpreter};

use super::debian::quietly;
use crate::workspace;

/// The version whose wheels are taken: that of the oldest host that is supported.
const MINOR: u32 = 11;
/// How long one environment may take, in seconds.
const LIMIT: &str = "900";

/// An environment and what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Environment {
    pub(super) name: &'static str,
    packages: &'static [&'static str],
}

/// Services and what they compute with.
pub(crate) const SERVICES: Environment = Environment {
    name: "services",
    packages: &["fastapi", "greenlet", "gunicorn", "numpy", "uvicorn", "uvloop"],
};
/// Networks, some gigabytes with what they use of graphics cards.
pub(crate) const TORCH: Environment = Environment {
    name: "torch",
    packages: &["numpy", "torch"],
};
/// The profiler that ours is measured against.
pub(crate) const PYSPY: Environment = Environment {
    name: "pyspy",
    packages: &["py-spy"],
};

impl Environment {
    fn folder(self) -> PathBuf {
        workspace::scratch().join("venvs").join(self.name)
    }

    /// A program of the environment.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        self.folder().join("bin").join(name)
    }

    /// Makes it, unless that is done.
    ///
    /// # Errors
    /// There is no interpreter for it, or a package cannot be had.
    pub(crate) fn make(self, found: &Found) -> Result<()> {
        let folder = self.folder();
        let mark = folder.join(COMPLETE);
        if mark.is_file() {
            return Ok(());
        }
        println!("installing {} below target/venvs", self.packages.join(", "));
        let suits = |one: &&Interpreter| one.root.is_none() && one.version.minor == MINOR;
        let mut result = Err(anyhow::anyhow!("there is no Python 3.{MINOR}"));
        for interpreter in found.interpreters.iter().filter(suits) {
            // Debian's interpreter lacks what makes environments until a package brings it.
            result = make_empty(interpreter, &folder);
            if result.is_ok() {
                break;
            }
        }
        result?;
        let mut pip = Command::new("timeout");
        pip.args(["--kill-after=5", LIMIT]).arg(self.program("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--retries=1"]);
        quietly(pip.args(self.packages))?;
        std::fs::write(mark, "").context("cannot leave a mark")
    }
}

fn make_empty(interpreter: &Interpreter, folder: &Path) -> Result<()> {
    let mut command = interpreter.command();
    quietly(command.args(["-m", "venv", "--clear"]).arg(folder)).map(drop)
}

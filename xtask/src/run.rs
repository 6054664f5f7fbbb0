//! The daemon in the foreground, as built here.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result};

use crate::command;
use crate::metadata;
use crate::privilege::Privilege;
use crate::workspace;

/// Builds the daemon and becomes it, with `arguments` after its name.
///
/// # Errors
/// The build fails, or nobody here may load programs into the kernel.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let privilege = Privilege::probe();
    command::run(workspace::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package=profiler-daemon",
        "--package=profiler-cli",
    ]))?;
    let daemon = metadata::target_directory(&metadata::of_workspace()?)?.join("release/profiler-daemon");
    let mut command = privilege.command(&daemon)?;
    Err(command.args(arguments).exec()).with_context(|| format!("cannot run {}", daemon.display()))
}

//! The daemon in the foreground, as built here.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result};

use crate::command;
use crate::metadata;
use crate::privilege::Privilege;
use crate::workspace;

/// Builds the daemon, and the command line to ask it, and becomes the daemon, with `arguments` after its name.
///
/// # Errors
/// The build fails, or nobody here may load programs into the kernel.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let daemon = metadata::target_directory(&metadata::of_workspace()?)?.join("release/profiler-daemon");
    // Asked for before the build: without root there is nothing to build for.
    let mut command = Privilege::probe().command(&daemon)?;
    let packages = ["--package=profiler-daemon", "--package=profiler-cli"];
    command::run(
        workspace::cargo()
            .args(["build", "--release", "--locked"])
            .args(packages),
    )?;
    Err(command.args(arguments).exec()).with_context(|| format!("cannot run {}", daemon.display()))
}

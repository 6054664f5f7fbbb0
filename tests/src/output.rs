//! What a program that ended left behind.

use std::process::{Command, Stdio};

/// What a run of the command line gave.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Output {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Shows what a daemon said, beside what the test says.
#[expect(
    clippy::print_stderr,
    reason = "the log of the daemon belongs to the output of a test that failed"
)]
pub(crate) fn show_log(log: &str) {
    eprintln!("the daemon's log:\n{log}");
}

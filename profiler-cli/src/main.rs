//! `profiler-cli`: flame graphs and status from the profiling daemon.
//!
//! In: arguments, and what the daemon answers over gRPC. Out: reports and profiles on stdout or in a file, everything else
//! on stderr, and an exit code. It never looks into other processes itself.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod convert;
mod error;
mod output;
mod span;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

use crate::{args::Args, error::CliError, output::printable};

/// Longest error message shown; the daemon may quote names from a target.
const MAX_MESSAGE_BYTES: usize = 2_000;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help is cut short only by a reader that went away.
            return match error.print() {
                Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(error::FAILURE)),
                Err(_) => ExitCode::SUCCESS,
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&CliError::Runtime { source: error }),
    };
    let result = runtime.block_on(commands::run(&args));
    // A write to a pipe that nobody reads must not keep an interrupted command alive.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| fail(&error))
}

/// Says what went wrong in one line, and gives its exit code.
fn fail(error: &CliError) -> ExitCode {
    if let Some(message) = error.message() {
        let line = printable(&message, MAX_MESSAGE_BYTES).into_owned();
        let style = output::ERROR_STYLE;
        // Without a stderr there is nobody to tell.
        drop(writeln!(anstream::stderr(), "{style}error:{style:#} {line}"));
    }
    ExitCode::from(error.exit_code())
}

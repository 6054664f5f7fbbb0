//! The verbs of the repository: what the README, CONTRIBUTING and CI call, and nothing else does.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its terminal"
)]

mod command;
mod ebpf;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, check, test, demo and benchmark the profiler.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build or check the committed object of the programs that run in the kernel.
    #[command(subcommand)]
    Ebpf(ebpf::Verb),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Ebpf(verb) => ebpf::run(verb),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

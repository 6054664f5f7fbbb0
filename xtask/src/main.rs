//! The verbs of the repository: what the README, CONTRIBUTING and CI call, and nothing else does.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its terminal"
)]

mod binaries;
mod check;
mod command;
mod ebpf;
mod licences;
mod metadata;
mod privilege;
mod run;
mod steps;
mod test;
mod tidy;
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
    /// Hold the sources against every rule: format, lints, documentation, tidiness, licences, generated files.
    Check {
        /// Build the eBPF object anew and compare the bytes.
        #[arg(long)]
        rebuild_ebpf: bool,
    },
    /// Hold the rules of the repository itself; part of `check`.
    Tidy,
    /// Run the checks and every ring of tests.
    Test(test::Arguments),
    /// Build the daemon and run it in the foreground, as root or through sudo.
    Run {
        /// Arguments of the daemon.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build or check the committed object of the programs that run in the kernel.
    #[command(subcommand)]
    Ebpf(ebpf::Verb),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Check { rebuild_ebpf } => check::run(rebuild_ebpf),
        Verb::Tidy => tidy::run(),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Run { arguments } => run::run(&arguments),
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

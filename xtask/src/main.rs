//! The verbs of the repository: what the README, CONTRIBUTING and CI call, and nothing else does.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its terminal"
)]

mod bench;
mod binaries;
mod check;
mod children;
mod command;
mod demo;
mod dist;
mod ebpf;
mod folded;
mod fuzz;
mod interpreters;
mod licences;
mod metadata;
mod not_run;
mod privilege;
mod prometheus;
mod run;
mod session;
mod steps;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, check, test, demo, benchmark and pack the profiler.
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
    /// Draw a flame graph of a service whose profile is known.
    Demo(demo::Arguments),
    /// Measure cost, truth and waiting times, next to what is promised.
    Bench(bench::Arguments),
    /// Build the Debian package below target/dist.
    Dist(dist::Arguments),
    /// Unpack Python interpreters for the tests below target/interpreters, and list those that are here.
    Interpreters(interpreters::Arguments),
    /// Run what parses bytes of others on made-up input, and say whether it held.
    Fuzz(fuzz::Arguments),
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
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
        Verb::Interpreters(arguments) => interpreters::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
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

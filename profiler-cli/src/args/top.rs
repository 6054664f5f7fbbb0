//! The options of `top`.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::parse_pid;
use crate::span::parse_duration;

const EXAMPLES: &str = "\
Examples:
  profiler-cli top                                   what the host computed in the last minute
  profiler-cli top --by service
  profiler-cli top --pid 4242 --by line --last 10m
  profiler-cli top --service checkout --watch
  profiler-cli top --json | jq '.rows[0]'

Only what the daemon watches is counted, and only time on a CPU. SELF is in the function itself, TOTAL with what it called.";

/// Options of `top`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) target: TopTargetArgs,
    /// What a row is
    #[arg(long, value_enum, default_value = "function")]
    pub(crate) by: TopBy,
    /// The samples of this long until now
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "1m")]
    pub(crate) last: Duration,
    /// How many rows
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
    /// Count the native functions of Python interpreters too
    #[arg(long)]
    pub(crate) native_python: bool,
    /// Only samples of threads that held Python's global interpreter lock
    #[arg(long)]
    pub(crate) gil: bool,
    /// Show it anew until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// How often to show it anew
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "5s", requires = "watch")]
    pub(crate) interval: Duration,
    /// Print JSON; with --watch, one document a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whose samples.
#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub(crate) struct TopTargetArgs {
    /// The process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// All processes of a service, by the name that `ps` shows
    #[arg(long, short, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// All that is watched on the host, unless another is named
    #[arg(long)]
    pub(crate) all: bool,
}

/// What a row of `top` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopBy {
    /// A function, with all its lines and all its callers
    Function,
    /// A line of a function
    Line,
    /// A service, or a program that belongs to none
    Service,
}

impl TopBy {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Line => "line",
            Self::Service => "service",
        }
    }
}

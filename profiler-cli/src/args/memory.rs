//! The arguments of `memory`.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand, ValueHint};

use super::parse_pid;
use crate::span::parse_duration;

const EXAMPLES: &str = "\
Examples:
  profiler-cli memory growth                         whose memory grows, and how fast
  profiler-cli memory census --pid 4242              which objects a Python process has
  profiler-cli memory census --pid 4242 --watch 30s  which it gets more of, and who holds them";

const CENSUS_EXAMPLES: &str = "\
Examples:
  profiler-cli memory census --pid 4242
  profiler-cli memory census --pid 4242 --diff       against the census before
  profiler-cli memory census --pid 4242 --watch 30s
  profiler-cli memory census --pid 4242 --json > before.json
  profiler-cli memory census --compare before.json after.json

Counts the objects of CPython 3.9 to 3.15 by type, from outside: the process is not stopped. Objects of more than 512 bytes \
are not seen. What holds new objects is found by a few of them, and where it is a container or an attribute: a local variable \
is not.";

const GROWTH_EXAMPLES: &str = "\
Examples:
  profiler-cli memory growth                         services, and processes that grow
  profiler-cli memory growth --service checkout      a service and its processes
  profiler-cli memory growth --all --json | jq '.growth[] | select(.trend == \"growing\")'

What is followed is anonymous memory, with what of it was swapped out. Of each minute the least counts, so that churn and \
collections of garbage are no growth; neither are a start that levels off, a single leap, and what was there before. A verdict \
needs half an hour, and looks back for six hours at most; a wave that is longer looks like growth while it rises fast. The \
interval is that of the slope over blocks of minutes (Theil and Sen); memory grows beyond doubt where all of it is above zero. \
The limit memory_growth is held against its lower end.";

/// What to do about memory.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum MemoryVerb {
    /// Tell whose memory grows, how fast, and for how long what is left lasts
    Growth(GrowthArgs),
    /// Count the objects of a Python process by type, and tell which it gets more of
    Census(CensusArgs),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = GROWTH_EXAMPLES)]
pub(crate) struct GrowthArgs {
    /// Only this process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// Only this service and its processes
    #[arg(long, short, value_name = "NAME", conflicts_with = "pid")]
    pub(crate) service: Option<String>,
    /// Processes that do not grow, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = CENSUS_EXAMPLES)]
pub(crate) struct CensusArgs {
    /// The process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid, required_unless_present = "compare")]
    pub(crate) pid: Option<u32>,
    /// Show what changed since the last census of the process, and who holds what is new
    #[arg(long, conflicts_with_all = ["watch", "compare"])]
    pub(crate) diff: bool,
    /// Take one each time this long has passed, and show what changed, until Ctrl-C
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with = "compare")]
    pub(crate) watch: Option<Duration>,
    /// Show what changed between two censuses that --json wrote; asks no daemon
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], value_hint = ValueHint::FilePath, conflicts_with = "pid")]
    pub(crate) compare: Option<Vec<PathBuf>>,
    /// Show so many types [default: 20; with --json all]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top: Option<u32>,
    /// Print JSON; with --watch, one document a line
    #[arg(long)]
    pub(crate) json: bool,
}

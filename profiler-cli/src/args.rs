//! The command line.

mod alerts;
mod connection;
mod diff;
mod kind;
mod memory;
mod top;

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use profiler_proto::v1::Scope;

use crate::{
    output::Format,
    span::{Moment, parse_duration, parse_moment},
};

const EXAMPLES: &str = "\
Examples:
  profiler-cli flamegraph --pid 4242                 the last minute, or ten seconds from now
  profiler-cli flamegraph --service checkout --last 5m -o checkout.svg
  profiler-cli ps                                    what is watched, and how well
  profiler-cli metrics --last 10m                    what host and services measured
  profiler-cli alerts                                which limits are crossed
  profiler-cli doctor                                what keeps the profiler from working

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no samples, 4 no permission.";

const FLAMEGRAPH_EXAMPLES: &str = "\
Examples:
  profiler-cli flamegraph --pid 4242
  profiler-cli flamegraph --pid 4242 --duration 30s --open
  profiler-cli flamegraph --service checkout --last 5m -o checkout.svg
  profiler-cli flamegraph --pid 4242 --from 2026-03-01T12:00:00Z --to 2026-03-01T12:01:00Z
  profiler-cli flamegraph --service api --gil        what Python threads hold the lock for
  profiler-cli flamegraph --pid 4242 --kind memory   what its memory has grown by since it is watched
  profiler-cli flamegraph --pid 4242 --kind memory --exact --duration 30s
  profiler-cli flamegraph --alert 3f2a9c0b7d5e8146    what grew when an alert began
  profiler-cli flamegraph --pid 4242 --format folded | sort -k2 -n | tail
  profiler-cli flamegraph --pid 4242 -o cpu.pb.gz && go tool pprof -top cpu.pb.gz

A process that the daemon watches by itself shows its last minute at once. Any other is watched for ten seconds, or for \
--duration; Ctrl-C ends the recording early and renders what there is.

With --kind memory the widths are bytes: of pages that were touched first in the span and are still there, with the stack that \
touched them. Without a span it begins when the process was first watched. It tells which code the memory was given to, not which \
code keeps it: an allocator that hands out again what was freed touches no new page, so that a leak can show under whoever \
touched its pages before. Pages are chosen by chance and stand for the others; the last line says how sure the sum is.

\
With --exact, which needs --pid and is of the time from now on, the widths are bytes that the process asked of the kernel by mmap, \
by mremap that makes a mapping larger and by brk that moves up, 128 KiB or more at once; the innermost frame says how. Each call \
counts, whether its memory is touched or not, and what is given back (munmap) is not set against it: the bytes are asked for, not \
held. Calls of 32-bit code are not seen. Meanwhile each system call of each process on the host takes a little longer; that is why \
it is for ten minutes at most, and of one process at a time.";

const PS_EXAMPLES: &str = "\
Examples:
  profiler-cli ps
  profiler-cli ps --pid 4242
  profiler-cli ps --json | jq '.processes[] | select(.watch_state == \"watched\") | .pid'";

const METRICS_EXAMPLES: &str = "\
Examples:
  profiler-cli metrics                               the readings that tell most
  profiler-cli metrics --service checkout --last 10m
  profiler-cli metrics host_memory disk_busy_ratio   by name, or by how names begin
  profiler-cli metrics --pid 4242 --watch
  profiler-cli metrics --list                        all that can be measured
  profiler-cli metrics host_load1 --watch --json | jq '.readings[].value'

A reading that could not be taken is left out: it is never zero. The value of a counter is its increase a second.";

const STATUS_EXAMPLES: &str = "\
Examples:
  profiler-cli status
  profiler-cli status --json | jq .sampling.lost";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  profiler-cli doctor
  sudo profiler-cli doctor --json

Exits with 0 only if nothing stands in the way.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  profiler-cli config check /etc/profiler/config.toml
  profiler-cli config show
  profiler-cli config show --effective";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  profiler-cli completions bash > /etc/bash_completion.d/profiler-cli
  profiler-cli completions zsh > /usr/share/zsh/site-functions/_profiler-cli";

pub(crate) use self::alerts::{AlertsArgs, AlertsVerb, ListAlertsArgs, SilenceArgs};
pub(crate) use self::connection::{Connection, Remote};
pub(crate) use self::diff::{CompareBy, DiffArgs, DiffFormat};
pub(crate) use self::kind::{Kind, MemoryValue, MemoryViewArgs, Pages};
pub(crate) use self::memory::{CensusArgs, GrowthArgs, MemoryVerb};
pub(crate) use self::top::{TopArgs, TopBy};

/// Flame graphs and status from the profiling daemon.
#[derive(Debug, Parser)]
#[command(name = "profiler-cli", version, after_help = EXAMPLES, max_term_width = 100, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show where a process or a service spends its CPU time
    Flamegraph(FlamegraphArgs),
    /// Show which functions cost more or less CPU than before
    Diff(DiffArgs),
    /// List the functions, lines or services that use most CPU
    Top(TopArgs),
    /// List the watched processes, and how well each can be profiled
    Ps(PsArgs),
    /// Show what host, services and processes measure: now, over a span, or as it comes
    Metrics(MetricsArgs),
    /// Show what the memory of a process holds
    Memory {
        #[command(subcommand)]
        verb: MemoryVerb,
    },
    /// Show which limits are crossed, and which were; silence what is known
    Alerts(AlertsArgs),
    /// Show what the daemon does, what it lost and what it costs
    Status(StatusArgs),
    /// Look for what keeps the profiler from working, and say what to do about it
    Doctor(DoctorArgs),
    /// Check or show the daemon's configuration
    #[command(after_help = CONFIG_EXAMPLES)]
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of profiler-cli, or of one of its commands
    #[command(hide = true)]
    Man {
        /// The command
        verb: Option<String>,
        /// Write the pages of the program and all its commands to files in this folder
        #[arg(long, value_name = "DIR", conflicts_with = "verb", value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = FLAMEGRAPH_EXAMPLES)]
pub(crate) struct FlamegraphArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Record for this long from now [default: 10s for a process that is not watched yet]
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with_all = ["last", "from", "to"])]
    pub(crate) duration: Option<Duration>,
    /// The samples of this long until now [default: 1m for what is watched already]
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with_all = ["from", "to"])]
    pub(crate) last: Option<Duration>,
    /// The samples from this time on: RFC 3339, @SECONDS since 1970, or a span ago such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) from: Option<Moment>,
    /// The samples until this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "from")]
    pub(crate) to: Option<Moment>,
    /// What is shown: time on a CPU, or what memory has grown by
    #[arg(long, value_enum, default_value_t = Kind::Cpu)]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) memory: MemoryViewArgs,
    /// Of memory: each call that asks the kernel for 128 KiB or more, recorded from now on
    #[arg(long, conflicts_with_all = ["service", "last", "from", "to", "value", "pages", "gil"])]
    pub(crate) exact: bool,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// Of an alert, only what ran while it began: not the difference
    #[arg(long, requires = "alert")]
    pub(crate) breach: bool,
    /// What to write [default: by the extension of FILE, else svg]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Where to write; - is standard output [default: standard output, or on a terminal a new file here]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Open what was written with the desktop's program for it
    #[arg(long)]
    pub(crate) open: bool,
}

/// What of the samples is shown.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct ViewArgs {
    /// Show the native frames of Python interpreters too
    #[arg(long)]
    pub(crate) native_python: bool,
    /// Only samples of threads that held Python's global interpreter lock
    #[arg(long)]
    pub(crate) gil: bool,
    /// Show each thread apart
    #[arg(long)]
    pub(crate) threads: bool,
}

/// Whose samples.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArgs {
    /// The process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// All processes of a service, by the name that `ps` shows
    #[arg(long, short, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// The whole host when an alert began, and what differs from the quiet time before
    #[arg(long, value_name = "ID", conflicts_with_all = ["duration", "last", "from", "to", "kind", "value", "pages", "exact", "native_python", "gil", "threads"])]
    pub(crate) alert: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = PS_EXAMPLES)]
pub(crate) struct PsArgs {
    /// Only this process, watched or not
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = METRICS_EXAMPLES)]
pub(crate) struct MetricsArgs {
    /// Metrics by name, or by how their names begin [default: those that tell most]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only readings of this service and its processes
    #[arg(long, short, value_name = "NAME", conflicts_with = "pid")]
    pub(crate) service: Option<String>,
    /// Only readings of this process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// Only readings of this device, interface, mount point, control group or GPU
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Option<String>,
    /// Only readings of subjects of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) scope: Vec<SubjectKind>,
    /// What was read in this long until now, at most an hour
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with = "watch")]
    pub(crate) last: Option<Duration>,
    /// Show it anew until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// How often to show it anew
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "1s", requires = "watch")]
    pub(crate) interval: Duration,
    /// List all that can be measured
    #[arg(long, conflicts_with_all = ["names", "service", "pid", "subject", "scope", "last", "watch"])]
    pub(crate) list: bool,
    /// Print JSON; with --watch, one document a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What readings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubjectKind {
    Host,
    Core,
    Disk,
    Network,
    Filesystem,
    Service,
    Process,
    Cgroup,
    Gpu,
}

impl From<SubjectKind> for Scope {
    fn from(kind: SubjectKind) -> Self {
        match kind {
            SubjectKind::Host => Self::Host,
            SubjectKind::Core => Self::Core,
            SubjectKind::Disk => Self::Disk,
            SubjectKind::Network => Self::Network,
            SubjectKind::Filesystem => Self::Filesystem,
            SubjectKind::Service => Self::Service,
            SubjectKind::Process => Self::Process,
            SubjectKind::Cgroup => Self::ControlGroup,
            SubjectKind::Gpu => Self::Gpu,
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check configuration files without the daemon, and tell what their limits do
    Check {
        /// The file; without it, /etc/profiler/config.toml and its drop-ins
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the configuration that the daemon runs with: the files read, and what differs from the defaults
    Show {
        /// All settings in force, the defaults too
        #[arg(long)]
        effective: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A process id that can be one.
fn parse_pid(text: &str) -> Result<u32, String> {
    match text.parse::<i32>() {
        Ok(0) => Err("PID 0 is the kernel's idle task, not a process that can be profiled".to_owned()),
        Ok(pid) if pid > 0 => Ok(pid.unsigned_abs()),
        _ => Err("a process id is a number from 1 to 2147483647".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn process_ids_are_checked() {
        assert_eq!(parse_pid("1"), Ok(1));
        for text in ["0", "-1", "2147483648", "x", ""] {
            assert!(parse_pid(text).is_err(), "{text}");
        }
    }
}

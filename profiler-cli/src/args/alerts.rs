//! The arguments of `alerts`.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

use crate::span::parse_duration;

const EXAMPLES: &str = "\
Examples:
  profiler-cli alerts                                what is beyond its limit now
  profiler-cli alerts --all --limit host_cpu         and what was
  profiler-cli alerts show 3f2a9c0b7d5e8146
  profiler-cli flamegraph --alert 3f2a9c0b7d5e8146 --open    the difference to the time before
  profiler-cli alerts test-sink pager
  profiler-cli alerts watch --json | jq -c 'select(.change == \"firing\")'
  profiler-cli alerts silence alertname=host_cpu --for 2h --comment \"load test\"
  profiler-cli alerts limits                         what is held against what

Labels of an alert are alertname (the limit), metric, scope, subject, severity, kind, and those that the limit adds.";

/// What to do with alerts.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct AlertsArgs {
    #[command(flatten)]
    pub(crate) list: ListAlertsArgs,
    #[command(subcommand)]
    pub(crate) verb: Option<AlertsVerb>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListAlertsArgs {
    /// Those that are over, too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only those of this limit
    #[arg(long, value_name = "NAME")]
    pub(crate) limit: Option<String>,
    /// At most so many, the newest first
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) most: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsVerb {
    /// List alerts: the same as `alerts`
    List(ListAlertsArgs),
    /// Show one alert, and what ran when it began
    Show {
        /// Its id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is beyond its limit, then each change as it happens, until Ctrl-C
    Watch {
        /// Print JSON, one document a line
        #[arg(long)]
        json: bool,
    },
    /// List the limits in force
    Limits {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List who is told of alerts, and how well
    Sinks {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell a sink of a test alert, once and now
    TestSink {
        /// Its name
        sink: String,
    },
    /// Tell nobody of alerts with these labels for a while
    Silence(SilenceArgs),
    /// List the silences that hold
    Silences {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a silence
    Unsilence {
        /// Its id
        id: u64,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SilenceArgs {
    /// Labels and the values that they must have, or, with !=, must not have; all must match
    #[arg(value_name = "LABEL=VALUE", required = true)]
    pub(crate) matchers: Vec<String>,
    /// For how long
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

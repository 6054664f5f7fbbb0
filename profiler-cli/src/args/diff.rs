//! The options of `diff`.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args as ClapArgs, ValueEnum, ValueHint};

use super::{ViewArgs, parse_pid};
use crate::{
    error::CliError,
    span::{Moment, parse_moment},
};

const EXAMPLES: &str = "\
Examples:
  profiler-cli diff --service checkout               the last minute against the one before
  profiler-cli diff --pid 4242 --before 5m..3m --after 1m..
  profiler-cli diff --service checkout --before 1h..30m --after 30m.. --by share
  profiler-cli diff --host --before 10m..5m --after 5m..
  profiler-cli diff --service checkout -o changed.svg

Only what blocks of windows on both sides agree on is called a change; where nothing is, the report says what would have \
been seen. Long spans see smaller changes.";

/// Options of `diff`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) target: DiffTargetArgs,
    /// What to compare with, as FROM..TO [default: as long as --after, just before it]
    #[arg(long, value_name = "FROM..TO", value_parser = parse_time_span)]
    pub(crate) before: Option<TimeSpan>,
    /// What is in question, as FROM..TO or FROM..; times as RFC 3339, @SECONDS since 1970, or a span ago such as 10m
    #[arg(long, value_name = "FROM..TO", value_parser = parse_time_span, default_value = "1m..")]
    pub(crate) after: TimeSpan,
    /// What of CPU time to compare
    #[arg(long, value_enum, default_value = "cores")]
    pub(crate) by: CompareBy,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// What to write [default: by the extension of FILE, else text]
    #[arg(long, value_enum, conflicts_with = "json")]
    pub(crate) format: Option<DiffFormat>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to write; - is standard output [default: standard output, or on a terminal a new file here for svg and folded]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

/// Whose functions.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct DiffTargetArgs {
    /// The process
    #[arg(long, short, value_name = "PID", value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// All processes of a service, by the name that `ps` shows
    #[arg(long, short, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// All that is watched on the host, each service judged by itself
    #[arg(long)]
    pub(crate) host: bool,
}

/// What of CPU time to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompareBy {
    /// CPU seconds a second: what is used up, which grows with the load too
    Cores,
    /// The share of all CPU time: how it is spent, whatever the load
    Share,
}

/// A format of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffFormat {
    /// Tables for people
    Text,
    /// A flame graph as wide as after, coloured by what changed
    Svg,
    /// One line for each stack, root first: target;frame;frame before after
    Folded,
    /// All that was tested
    Json,
}

/// From when to when, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpan {
    from: Moment,
    /// None until now.
    to: Option<Moment>,
}

impl TimeSpan {
    /// The points in time, seen from `now`.
    pub(crate) fn resolve(self, now: SystemTime, option: &str) -> Result<(SystemTime, SystemTime), CliError> {
        let (from, to) = (self.from.resolve(now), self.to.map_or(now, |to| to.resolve(now)));
        if from >= now {
            return Err(CliError::Usage {
                message: format!("{option} does not begin in the past"),
            });
        }
        if to <= from {
            return Err(CliError::Usage {
                message: format!("{option} ends before it begins"),
            });
        }
        Ok((from, to.min(now)))
    }
}

/// Parses `5m..3m`, `1m..` or two points in time.
fn parse_time_span(text: &str) -> Result<TimeSpan, String> {
    let parts = text.split_once("..");
    let (from, to) = parts.ok_or("expected two times, such as 5m..3m, or 1m.. until now")?;
    Ok(TimeSpan {
        from: parse_moment(from)?,
        to: match to.trim() {
            "" => None,
            to => Some(parse_moment(to)?),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn spans_of_time_are_parsed() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let resolve = |text: &str| parse_time_span(text).unwrap().resolve(now, "--after");
        let ago = |seconds| now - Duration::from_secs(seconds);
        assert_eq!(resolve("5m..3m").unwrap(), (ago(300), ago(180)));
        assert_eq!(resolve("1m..").unwrap(), (ago(60), now));
        let absolute = resolve("2026-03-01T12:00:00Z..@1772366460").unwrap();
        let noon = UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        assert_eq!(absolute, (noon, noon + Duration::from_secs(60)));
        // What has not happened yet is left out.
        assert_eq!(resolve("1m..@2000009999").unwrap(), (ago(60), now));
        for text in ["", "..", "5m", "..5m", "x..y", "5m-3m"] {
            assert!(parse_time_span(text).is_err(), "{text}");
        }
        let message = |text| resolve(text).unwrap_err().to_string();
        assert_eq!(message("3m..5m"), "--after ends before it begins");
        assert_eq!(message("@2000000001.."), "--after does not begin in the past");
    }
}

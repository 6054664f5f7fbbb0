//! Whose objects are counted for an alert: the largest process of its subject that runs Python, as far as is known.

use std::{sync::Arc, time::Duration};

use profiler_readings::{Metric, Subject};

use crate::{
    command::{Command, EngineHandle, ProcessSummary, Runtime},
    kernel::records::Pid,
    readings::Board,
};

/// Processes of which it is asked what they run.
pub(super) const MAX_LOOKED_AT: usize = 64;
/// Processes that are tried, until one can be counted.
pub(super) const MAX_TRIED: usize = 3;

/// A process that may be counted, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) pid: Pid,
    pub(super) start_ticks: u64,
}

/// How likely it is that the objects of a process can be counted: the likeliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chance {
    /// It runs Python.
    Good,
    /// It runs Python of a kind that is refused. That is worth telling, before anything is said of others.
    Refused,
    /// Nobody knows what it runs.
    Unknown,
    /// It runs no Python.
    Never,
}

impl Chance {
    /// Of a process of which this is known, if anything is.
    fn of(process: Option<&ProcessSummary>) -> Self {
        let Some(process) = process else {
            return Self::Unknown;
        };
        match (&process.interpreter, process.runtime) {
            (Some(interpreter), _) if interpreter.free_threaded => Self::Refused,
            (Some(_), _) | (None, Runtime::Python) => Self::Good,
            (None, Runtime::Rust) => Self::Never,
            (None, Runtime::Native) => Self::Unknown,
        }
    }

    /// As far as the sampling loop knows.
    pub(super) fn told_by(engine: &EngineHandle, pid: Pid) -> Self {
        let asked = engine.begin(|reply| Command::ListProcesses { pid: Some(pid), reply });
        let answer = asked.ok().and_then(|answer| answer.blocking_recv().ok());
        let listed = answer.and_then(Result::ok).unwrap_or_default();
        Self::of(listed.first())
    }
}

/// The processes that are tried, of those that are given with the largest first: the largest that run Python, then those that
/// may. Or that there are none.
pub(super) fn likeliest(
    candidates: Vec<Candidate>,
    chance_of: impl Fn(Pid) -> Chance,
) -> Result<Vec<Candidate>, String> {
    let count = candidates.len();
    let mut chances = Vec::new();
    let mut good = 0;
    for candidate in candidates {
        let chance = chance_of(candidate.pid);
        if chance != Chance::Never {
            chances.push((chance, candidate));
        }
        good += usize::from(chance == Chance::Good);
        if good == MAX_TRIED {
            break;
        }
    }
    if chances.is_empty() {
        return Err(format!("none of its {count} largest watched processes runs Python"));
    }
    // Among equals the larger stays before the smaller.
    chances.sort_by_key(|(chance, _)| *chance);
    chances.truncate(MAX_TRIED);
    Ok(chances.into_iter().map(|(_, candidate)| candidate).collect())
}

impl Board {
    /// The processes of a subject, or of the host, by what is resident: the largest first.
    pub(super) fn largest_processes(&self, subject: &Subject, now: Duration) -> Vec<Candidate> {
        let series = self.series();
        let is_meant = |other: &Subject, service: Option<&Arc<str>>| match subject {
            Subject::Host => true,
            Subject::Service(name) => service == Some(name),
            process => other == process,
        };
        let latest = series.latest(now, |series| {
            series.metric == Metric::ProcessMemory && is_meant(series.subject, series.owner.map(|owner| &owner.service))
        });
        let mut sizes: Vec<(u64, u32, u64)> = latest
            .into_iter()
            .filter_map(|latest| match latest.subject {
                Subject::Process { pid, start_ticks } => Some((latest.value as u64, pid, start_ticks)),
                _ => None,
            })
            .collect();
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        let candidates = sizes.into_iter().map(|(_, pid, start_ticks)| Candidate {
            pid: Pid(pid),
            start_ticks,
        });
        candidates.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::SystemTime};

    use super::*;
    use crate::command::{self, InterpreterState, InterpreterSummary, WatchState};

    fn process(runtime: Runtime, free_threaded: Option<bool>) -> ProcessSummary {
        ProcessSummary {
            pid: Pid(7),
            start: SystemTime::UNIX_EPOCH,
            name: "a".into(),
            executable: String::new(),
            command_line: Vec::new(),
            runtime,
            service: "a".into(),
            watch_state: WatchState::Watched,
            watch_reason: String::new(),
            user_id: 0,
            mappings: 0,
            mappings_with_rows: 0,
            samples: 0,
            rooted_samples: 0,
            python_samples: 0,
            interpreter: free_threaded.map(|free_threaded| InterpreterSummary {
                object: "libpython".into(),
                version: None,
                free_threaded,
                state: InterpreterState::Active,
                reason: String::new(),
            }),
            limitations: Vec::new(),
        }
    }

    #[test]
    fn what_a_process_runs_tells_whether_it_can_be_counted() {
        for (runtime, free_threaded, chance) in [
            (Runtime::Python, Some(false), Chance::Good),
            (Runtime::Python, None, Chance::Good),
            // One that embeds an interpreter.
            (Runtime::Rust, Some(false), Chance::Good),
            (Runtime::Python, Some(true), Chance::Refused),
            (Runtime::Native, None, Chance::Unknown),
            (Runtime::Rust, None, Chance::Never),
        ] {
            assert_eq!(Chance::of(Some(&process(runtime, free_threaded))), chance);
        }
        assert_eq!(Chance::of(None), Chance::Unknown);
        // A loop that has ended knows nothing.
        let (engine, commands) = command::channel();
        drop(commands);
        assert_eq!(Chance::told_by(&engine, Pid(7)), Chance::Unknown);
    }

    #[test]
    fn the_largest_that_run_python_are_tried() {
        use Chance::{Good, Never, Refused, Unknown};

        let asked = Cell::new(0);
        let tried = |chances: &[Chance]| {
            let candidates = (0..chances.len()).map(|number| Candidate {
                pid: Pid(number as u32),
                start_ticks: 1,
            });
            asked.set(0);
            let likeliest = likeliest(candidates.collect(), |pid| {
                asked.set(asked.get() + 1);
                chances[pid.0 as usize]
            });
            likeliest.map(|likeliest| likeliest.iter().map(|one| one.pid.0).collect::<Vec<_>>())
        };
        // A database of the host is larger than its services.
        let host = [Unknown, Never, Unknown, Refused, Good, Unknown, Good];
        assert_eq!(tried(&host), Ok(vec![4, 6, 3]));
        assert_eq!(tried(&[Never, Unknown, Unknown]), Ok(vec![1, 2]));
        let workers = [Good; 20];
        assert_eq!(tried(&workers), Ok(vec![0, 1, 2]));
        assert_eq!(asked.get(), MAX_TRIED, "nobody asks of more than are tried");
        let none = "none of its 2 largest watched processes runs Python";
        assert_eq!(tried(&[Never, Never]), Err(none.to_owned()));
    }
}

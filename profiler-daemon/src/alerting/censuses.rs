//! The thread that has the objects of a Python process counted while an alert about memory fires: once, and again a while
//! later, so that what it gets more of is seen.
//!
//! A census costs seconds of a CPU, and an alert about memory is no time to burn them: there is one such pair of censuses at a
//! time, and none for a while after it. The largest process goes first.

use std::{
    io, iter,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use profiler_alerts::{AlertId, size_in_words};
use profiler_census::{Change, Holders};
use profiler_profile::visible;
use profiler_readings::Subject;
use profiler_store::state::{Encoding, Evidence as KeptEvidence};

use crate::{
    census::{CensusError, CensusHandle, Options, Taken},
    kernel::records::Pid,
    readings::Board,
};

/// What is kept of censuses is called so.
pub(super) const CENSUS_LINES: &str = "census_lines";
/// Time between two alerts with censuses.
const EVERY: Duration = Duration::from_secs(600);
/// Time between the two censuses of an alert.
const APART: Duration = Duration::from_secs(60);
/// Processes that are tried, until one can be counted.
const MAX_TRIED: usize = 3;
/// Types that are told of, and most bytes told of a name.
const MAX_TYPES: usize = 5;
const MAX_NAME_BYTES: usize = 120;
/// Reasons told of why not all is known, and most bytes of one.
const MAX_REASONS: usize = 3;
const MAX_REASON_BYTES: usize = 300;

/// An alert, and whose objects may be counted for it.
#[derive(Debug)]
struct Job {
    id: AlertId,
    pids: Vec<Pid>,
}

/// What was counted for an alert.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) id: AlertId,
    pub(super) kept: KeptEvidence,
}

/// In reach of the owner of alerts.
#[derive(Debug)]
pub(super) struct Censuses {
    jobs: Option<SyncSender<Job>>,
    counted: Receiver<Counted>,
    /// When the last ones were begun.
    last: Option<Duration>,
}

impl Censuses {
    /// Starts the thread; without censuses there is none. It ends when this is dropped, after what it is at.
    pub(super) fn start(censuses: Option<CensusHandle>) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(0);
        let (done, counted) = sync_channel(1);
        let is_possible = censuses.is_some();
        if let Some(censuses) = censuses {
            thread::Builder::new().name("alert-census".to_owned()).spawn(move || {
                for Job { id, pids } in waiting {
                    let kept = count(&censuses, &pids, || thread::sleep(APART));
                    if done.send(Counted { id, kept }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self {
            jobs: is_possible.then_some(jobs),
            counted,
            last: None,
        })
    }

    /// Has the objects counted of whoever holds most for a subject. Says why not, if not.
    pub(super) fn begin(&mut self, id: AlertId, subject: &Subject, board: &Board, now: Duration) -> Result<(), String> {
        let Some(jobs) = &self.jobs else {
            return Err("none is taken on this host".to_owned());
        };
        if self.last.is_some_and(|last| now.saturating_sub(last) < EVERY) {
            let minutes = EVERY.as_secs() / 60;
            return Err(format!(
                "one was begun for another alert less than {minutes} minutes before"
            ));
        }
        let pids: Vec<Pid> = board
            .largest_processes(subject)
            .into_iter()
            .take(MAX_TRIED)
            .map(Pid)
            .collect();
        if pids.is_empty() {
            return Err("no process of it is watched".to_owned());
        }
        match jobs.try_send(Job { id, pids }) {
            Ok(()) => {
                self.last = Some(now);
                Ok(())
            }
            Err(_) => Err("another is being taken".to_owned()),
        }
    }

    /// What was counted since the last time.
    pub(super) fn counted(&self) -> impl Iterator<Item = Counted> {
        self.counted.try_iter()
    }
}

/// That there is no census, as it is kept.
pub(super) fn missing(why: &str) -> KeptEvidence {
    lines_of(vec![format!("not known: which objects of Python there are: {why}")])
}

fn lines_of(lines: Vec<String>) -> KeptEvidence {
    KeptEvidence {
        kind: CENSUS_LINES.to_owned(),
        encoding: Encoding::Raw,
        made: SystemTime::now(),
        body: lines.join("\n").into_bytes(),
    }
}

/// Counts the objects of the first of these processes that can be counted, and again after `wait`.
fn count(censuses: &CensusHandle, pids: &[Pid], wait: impl FnOnce()) -> KeptEvidence {
    let options = Options {
        compare: true,
        holders: true,
    };
    let mut refused = None;
    let first = pids.iter().find_map(|pid| {
        let taken = censuses.take_blocking(*pid, options);
        taken.map_err(|error| refused.get_or_insert(error).clone()).ok()
    });
    let Some(first) = first else {
        let why = refused.map_or_else(String::new, |error: CensusError| error.to_string());
        return missing(&why);
    };
    if first.difference.is_some() {
        return keep(&first, None);
    }
    wait();
    match censuses.take_blocking(first.pid, options) {
        Ok(second) => keep(&second, None),
        Err(error) => keep(&first, Some(&error)),
    }
}

fn keep(taken: &Taken, failed: Option<&CensusError>) -> KeptEvidence {
    let mut lines = lines(taken);
    lines.extend(failed.map(|error| format!("not known: which objects there are more of: {error}")));
    lines_of(lines)
}

/// What there is more of, or most of while nothing is compared yet.
fn lines(taken: &Taken) -> Vec<String> {
    let shown = |name: &str| visible(name, MAX_NAME_BYTES).into_owned();
    let pid = taken.pid;
    let Some((difference, earlier)) = &taken.difference else {
        let types = taken.census.types.iter().take(MAX_TYPES);
        let types: Vec<String> = types
            .map(|count| {
                let bytes = size_in_words(count.bytes as f64);
                format!("{} {} ({bytes})", count.objects, shown(&count.name))
            })
            .collect();
        return vec![format!("Python objects of process {pid}: {}", types.join(", "))];
    };
    let apart = taken.time.duration_since(*earlier).unwrap_or_default().as_secs();
    let more: Vec<&Change> = difference
        .changes
        .iter()
        .filter(|change| change.more_objects() > 0)
        .take(MAX_TYPES)
        .collect();
    // What one of the two does not show may be no more, or no less, in truth.
    let unsure = taken.partial.iter().take(MAX_REASONS).map(|reason| {
        let reason = visible(reason, MAX_REASON_BYTES);
        format!("Python objects of process {pid}: not all is known: {reason}")
    });
    if more.is_empty() {
        let none = format!("Python objects of process {pid}: no more of any type in {apart} s");
        return iter::once(none).chain(unsure).collect();
    }
    let line = |change: &&Change| {
        let bytes = size_in_words(change.more_bytes().max(0) as f64);
        let holders = taken.holders.iter().find(|holders| holders.name == change.name);
        format!(
            "Python objects of process {pid}: {} {} more in {apart} s ({bytes}){}",
            change.more_objects(),
            shown(&change.name),
            holders.and_then(held_by).unwrap_or_default()
        )
    };
    more.iter().map(line).chain(unsure).collect()
}

fn held_by(holders: &Holders) -> Option<String> {
    let first = holders.holders.first()?;
    let steps: Vec<String> = first
        .steps
        .iter()
        .map(|step| visible(&step.to_string(), MAX_NAME_BYTES).into_owned())
        .collect();
    Some(format!(", held by {}", steps.join(" > ")))
}

impl Board {
    /// The processes of a subject, or of the host, by what is resident: the largest first.
    fn largest_processes(&self, subject: &Subject) -> Vec<u32> {
        let series = self.series();
        let is_meant = |other: &Subject, service: Option<&Arc<str>>| match subject {
            Subject::Host => true,
            Subject::Service(name) => service == Some(name),
            process => other == process,
        };
        let latest = series.latest(Self::now().steady, |series| {
            series.metric == profiler_readings::Metric::ProcessMemory
                && is_meant(series.subject, series.owner.map(|owner| &owner.service))
        });
        let mut sizes: Vec<(u64, u32)> = latest
            .into_iter()
            .filter_map(|latest| match latest.subject {
                Subject::Process { pid, .. } => Some((latest.value as u64, pid)),
                _ => None,
            })
            .collect();
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        sizes.into_iter().map(|(_, pid)| pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use profiler_census::{Census, Difference, TypeCount};
    use profiler_readings::{Metric, Reading};
    use profiler_store::{Owner, SeriesLimits};

    use super::*;
    use crate::census::Cost;

    fn taken(difference: Option<(Difference, SystemTime)>) -> Taken {
        Taken {
            pid: Pid(7),
            start_ticks: 1,
            time: SystemTime::UNIX_EPOCH + APART,
            python: "3.11.2".to_owned(),
            census: Arc::new(Census {
                types: vec![TypeCount::new("dict", 5, 2048), TypeCount::new("a\x1bb", 1, 64)],
                ..Census::default()
            }),
            difference,
            holders: Vec::new(),
            partial: Vec::new(),
            cost: Cost::default(),
        }
    }

    #[test]
    fn what_there_is_more_of_is_told() {
        assert_eq!(
            lines(&taken(None)),
            ["Python objects of process 7: 5 dict (2 KiB), 1 a\\u{1b}b (64 bytes)"]
        );
        let change = |name: &str, objects, bytes| Change {
            name: name.into(),
            objects,
            bytes,
        };
        let with = |changes| {
            let difference = Difference {
                changes,
                ..Difference::default()
            };
            lines(&taken(Some((difference, SystemTime::UNIX_EPOCH))))
        };
        assert_eq!(
            with(vec![
                change("dict", [10, 60], [0, 4096]),
                change("list", [9, 3], [99, 9])
            ]),
            ["Python objects of process 7: 50 dict more in 60 s (4 KiB)"]
        );
        assert_eq!(
            with(Vec::new()),
            ["Python objects of process 7: no more of any type in 60 s"]
        );
        let partial = Taken {
            partial: vec!["the census before did not show all".to_owned()],
            ..taken(Some((Difference::default(), SystemTime::UNIX_EPOCH)))
        };
        assert_eq!(
            lines(&partial)[1..],
            ["Python objects of process 7: not all is known: the census before did not show all"]
        );
    }

    #[test]
    fn the_largest_process_goes_first() {
        let board = Board::new(SeriesLimits {
            retention: Duration::from_secs(60),
            max_bytes: 1 << 20,
        });
        let now = Board::now();
        for (pid, service, bytes) in [(7, "web", 100.0), (8, "web", 300.0), (9, "batch", 500.0)] {
            let subject = Subject::Process { pid, start_ticks: 1 };
            let reading = Reading {
                metric: Metric::ProcessMemory,
                subject: subject.clone(),
                value: bytes,
                time: now.wall,
            };
            board.put(&[reading], now.steady);
            let owner = Owner {
                name: "python3".into(),
                service: service.into(),
            };
            board.series().set_owner(&subject, &owner);
        }
        assert_eq!(board.largest_processes(&Subject::Service("web".into())), [8, 7]);
        assert_eq!(board.largest_processes(&Subject::Host), [9, 8, 7]);
        assert_eq!(
            board.largest_processes(&Subject::Process { pid: 7, start_ticks: 1 }),
            [7]
        );
        let mut none = Censuses::start(None).unwrap();
        let refused = none.begin(AlertId(1), &Subject::Host, &board, now.steady).unwrap_err();
        assert_eq!(refused, "none is taken on this host");
    }
}

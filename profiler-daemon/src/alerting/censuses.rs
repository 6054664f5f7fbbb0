//! The thread that has the objects of a Python process counted while an alert about memory fires: once, and again a while
//! later, so that what it gets more of is seen.
//!
//! A census costs seconds of a CPU, and an alert about memory is no time to burn them: there is one such pair of censuses at a
//! time, and none for a while after it. The largest process goes first that runs Python, as far as is known. What is compared is of
//! one process and of one program that it ran, and lies far enough apart to tell something.

mod candidates;

use std::{
    io, iter,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, SystemTime},
};

use profiler_alerts::{AlertId, size_in_words};
use profiler_census::{Change, Difference, Holders};
use profiler_profile::visible;
use profiler_readings::Subject;
use profiler_store::state::{Encoding, Evidence as KeptEvidence};

use self::candidates::{Candidate, Chance, MAX_LOOKED_AT, likeliest};
use crate::{
    census::{CensusError, CensusHandle, Options, Taken},
    command::EngineHandle,
    kernel::records::Pid,
    readings::Board,
};

/// What is kept of censuses is called so.
pub(super) const CENSUS_LINES: &str = "census_lines";
/// Alerts that wait for those of the one before: its processes may have been long to count.
const QUEUE: usize = 1;
/// Time between two alerts with censuses.
const EVERY: Duration = Duration::from_secs(600);
/// How often it is asked for a census while others are taken, and the time in between.
const MAX_ASKED: u32 = 12;
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// What is asked for.
const OPTIONS: Options = Options {
    compare: true,
    holders: true,
};
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
    /// The largest first.
    candidates: Vec<Candidate>,
    /// Whom to ask what they run.
    engine: EngineHandle,
    /// Time between the two censuses.
    apart: Duration,
}

/// What was counted for an alert.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) id: AlertId,
    /// Whether there was a process that could be counted.
    is_taken: bool,
    pub(super) kept: KeptEvidence,
}

/// In reach of the owner of alerts.
#[derive(Debug)]
pub(super) struct Censuses {
    jobs: Option<SyncSender<Job>>,
    counted: Receiver<Counted>,
    /// Whom to ask what processes run.
    engine: EngineHandle,
    /// When the last ones were begun.
    last: Option<Duration>,
    /// Time between the two of an alert.
    pub(super) apart: Duration,
}

impl Censuses {
    /// Starts the thread; without censuses there is none. It ends when this is dropped, after what it is at.
    pub(super) fn start(censuses: Option<CensusHandle>, engine: EngineHandle, apart: Duration) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(QUEUE);
        let (done, counted) = sync_channel(1);
        let is_possible = censuses.is_some();
        if let Some(censuses) = censuses {
            thread::Builder::new().name("alert-census".to_owned()).spawn(move || {
                for Job {
                    id,
                    candidates,
                    engine,
                    apart,
                } in waiting
                {
                    let likeliest = likeliest(candidates, |pid| Chance::told_by(&engine, pid));
                    // Whoever answers ends when nobody can ask any more: that does not take as long as two censuses.
                    drop(engine);
                    let counting = Counting {
                        take: &|pid| censuses.take_blocking(pid, OPTIONS),
                        wait: &thread::sleep,
                        apart,
                    };
                    let counted = likeliest.and_then(|candidates| counting.count(&candidates));
                    let is_taken = counted.is_ok();
                    let kept = counted.unwrap_or_else(|why| missing(&why));
                    if done.send(Counted { id, is_taken, kept }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self {
            jobs: is_possible.then_some(jobs),
            counted,
            engine,
            last: None,
            apart,
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
        if let Subject::ControlGroup(_) = subject {
            return Err("which processes are of a control group is not known".to_owned());
        }
        let mut candidates = board.largest_processes(subject, now);
        candidates.truncate(MAX_LOOKED_AT);
        if candidates.is_empty() {
            return Err("no process of it is watched".to_owned());
        }
        let job = Job {
            id,
            candidates,
            engine: self.engine.clone(),
            apart: self.apart,
        };
        match jobs.try_send(job) {
            Ok(()) => {
                self.last = Some(now);
                Ok(())
            }
            Err(_) => Err("another is being taken".to_owned()),
        }
    }

    /// What was counted since the last time.
    pub(super) fn counted(&mut self) -> Vec<Counted> {
        let counted: Vec<Counted> = self.counted.try_iter().collect();
        // What cost nothing keeps no other alert from its census.
        if counted.iter().any(|counted| !counted.is_taken) {
            self.last = None;
        }
        counted
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

/// How a census is had, and how time passes in between.
struct Counting<'a> {
    take: &'a dyn Fn(Pid) -> Result<Taken, CensusError>,
    wait: &'a dyn Fn(Duration),
    /// Time between two censuses that are compared.
    apart: Duration,
}

impl Counting<'_> {
    /// Counts the objects of the first of these processes that can be counted, and again later if nothing of before tells what
    /// there is more of. Or says why none can be.
    fn count(&self, candidates: &[Candidate]) -> Result<KeptEvidence, String> {
        let mut refused = None;
        for candidate in candidates {
            match self.census(*candidate) {
                Ok(first) => return Ok(self.compare(*candidate, first)),
                // It is not about this process: with another it would be no better.
                Err(
                    error @ (CensusError::Busy
                    | CensusError::Stuck { .. }
                    | CensusError::Late { .. }
                    | CensusError::Stopping),
                ) => {
                    return Err(error.to_string());
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.map_or_else(String::new, |error| error.to_string()))
    }

    fn compare(&self, candidate: Candidate, mut first: Taken) -> KeptEvidence {
        if is_apart(&first, self.apart) {
            return keep(&first, None);
        }
        // What it may be compared with is too young to tell anything.
        first.difference = None;
        first.holders = Vec::new();
        (self.wait)(self.apart);
        match self.census(candidate) {
            Ok(second) if second.program == first.program => keep(&against(second, &first), None),
            Ok(_) => keep(&first, Some("the process executed another program meanwhile")),
            Err(error) => keep(&first, Some(&error.to_string())),
        }
    }

    /// A census of the very process that was read. Others that are being taken are waited for.
    fn census(&self, candidate: Candidate) -> Result<Taken, CensusError> {
        let pid = candidate.pid;
        let mut asked = 1;
        let mut taken = (self.take)(pid);
        while asked < MAX_ASKED && matches!(taken, Err(CensusError::Busy)) {
            (self.wait)(ASK_AGAIN);
            asked += 1;
            taken = (self.take)(pid);
        }
        taken.and_then(|taken| match taken.start_ticks == candidate.start_ticks {
            true => Ok(taken),
            false => Err(CensusError::Ended { pid }),
        })
    }
}

fn keep(taken: &Taken, failed: Option<&str>) -> KeptEvidence {
    let mut lines = lines(taken);
    lines.extend(failed.map(|why| format!("not known: which objects there are more of: {why}")));
    lines_of(lines)
}

/// What a census is compared with, if that is old enough.
fn is_apart(taken: &Taken, least: Duration) -> bool {
    let earlier = taken.difference.as_ref().map(|(_, earlier)| *earlier);
    earlier.is_some_and(|earlier| taken.time.duration_since(earlier).is_ok_and(|apart| apart >= least))
}

/// The second census, against the first. Somebody else may have had one taken in between, which it was compared with.
fn against(mut second: Taken, first: &Taken) -> Taken {
    if second.difference.as_ref().map(|(_, earlier)| *earlier) != Some(first.time) {
        second.difference = Some((Difference::between(&first.census, &second.census), first.time));
        let reasons = first.partial.iter();
        let caveats = reasons.map(|reason| format!("the census before did not show all: {reason}"));
        second.partial.extend(caveats);
    }
    second
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

#[cfg(test)]
mod tests;

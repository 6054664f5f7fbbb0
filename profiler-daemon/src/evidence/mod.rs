//! What is kept with an alert: which code ran while a limit was exceeded, and what of it is new.
//!
//! In: the span of a breach and whose it is, the windows of the store and the series of readings. Out: the profile of the breach
//! and of the quiet time before it, both compared over all services, the readings around, and lines of text for whoever is
//! told. It accuses only services that grew, and only of functions that grew in them; where nothing grew beyond chance it says
//! so. Bounded, whatever ran.

mod lines;
pub mod memory;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use profiler_profile::{
    Profile, View,
    compare::{Comparer, Comparison, Direction, FunctionChange, Measure, Party, PartyChange, Scope, Settings, Side},
};
use profiler_readings::{Metric, Subject};
use profiler_store::{Owner, Range, Selection, Span, Steps, Store, Target};

use crate::readings::Board;

pub use lines::lines;
pub use memory::MemoryEvidence;

/// What a breach is compared with: at most so much time before it.
pub(crate) const MAX_QUIET: Duration = Duration::from_secs(300);
/// Longest part of a breach that is kept: its end, which is what is being told of.
const MAX_BREACH: Duration = Duration::from_secs(300);
/// Readings are kept from so long before a breach.
const READINGS_BEFORE: Duration = Duration::from_secs(300);
/// Steps that the readings are kept in.
const READING_STEPS: u32 = 120;
/// Series that are kept.
const MAX_TRACKS: usize = 256;
/// Part of accusations that may be wrong, on average: less than of what is only shown.
const LEVEL: f64 = 0.01;
/// Stacks that a profile is kept with; the heaviest.
const MAX_STACKS: usize = 5_000;
/// Functions that did not change and are kept.
const MAX_UNCHANGED: usize = 100;
/// Places of the compared tree that take less than this are not kept.
const SMALLEST_SHARE: f64 = 0.001;

/// A limit that is exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Since when.
    pub start: SystemTime,
    /// Until when, so far.
    pub end: SystemTime,
    /// By how much it may have begun earlier: a reading speaks of the time since the one before it, and is held against the
    /// limit after it was read.
    pub seen_late: Duration,
    /// Whose reading it is.
    pub subject: Subject,
    /// Which reading it is.
    pub metric: Metric,
}

/// When a breach was, by the clock that nobody sets.
#[derive(Clone, Debug)]
pub struct Course {
    /// When the quiet time before it ended.
    pub quiet_until: Duration,
    /// When it was seen to begin.
    pub began: Duration,
    /// Until when it is looked at.
    pub until: Duration,
    /// What of the quiet time was held before the store forgot it.
    pub held: Option<Selection>,
}

impl Course {
    /// What the store has of the quiet time: whole windows, none of which goes on into the breach.
    pub(crate) fn quiet(&self, store: &Store, shown: Span) -> Selection {
        let since = self.quiet_until.saturating_sub(MAX_QUIET);
        store.select_by_uptime(Target::Everything, shown, |_began, ended| {
            ended > since && ended <= self.quiet_until
        })
    }

    /// What it has of the breach.
    fn during(&self, store: &Store, shown: Span) -> Selection {
        let since = self.began.max(self.until.saturating_sub(MAX_BREACH));
        store.select_by_uptime(Target::Everything, shown, |began, ended| {
            ended > since && began < self.until
        })
    }
}

/// A series of readings around a breach.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// What was measured.
    pub metric: Metric,
    /// Of whom.
    pub subject: Subject,
    /// What is known of the process.
    pub owner: Option<Owner>,
    /// The values, in steps of [`Evidence::step`] from [`Evidence::readings_from`] on.
    pub range: Range,
}

/// A profile without its lightest stacks.
#[derive(Clone, Debug)]
pub struct KeptProfile {
    /// The heaviest stacks. The quality is that of all samples.
    pub profile: Profile,
    /// Samples of the stacks that were left out.
    pub left_out: u64,
}

/// What is kept with an alert.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Whose limit it is, and when it was exceeded.
    pub breach: Breach,
    /// All that ran then; none if the sampling rate changed to one that cannot be added.
    pub during: Option<KeptProfile>,
    /// All that ran before; as that.
    pub quiet: Option<KeptProfile>,
    /// Both compared, each service by itself.
    pub comparison: Comparison,
    /// Readings of the host, of whom the limit is about, and of the services that grew.
    pub readings: Vec<Track>,
    /// When the first step of the readings begins.
    pub readings_from: SystemTime,
    /// Length of a step.
    pub step: Duration,
    /// Of a limit on memory: what memory did.
    pub memory: Option<MemoryEvidence>,
}

impl Evidence {
    /// Services and programs that use more CPU than before; those that grew most first.
    pub fn grown(&self) -> impl Iterator<Item = &PartyChange> {
        let parties = self.comparison.parties.iter();
        parties.filter(|party| party.change.direction == Some(Direction::Grew))
    }

    /// Functions that grew in a service or program that grew, with whose they are; those that grew most in themselves first.
    pub fn accused(&self) -> impl Iterator<Item = (&Party, &FunctionChange)> {
        let changed = self.comparison.changed(Direction::Grew);
        changed.filter_map(|function| {
            let party = self.comparison.parties.get(function.party? as usize)?;
            (party.change.direction == Some(Direction::Grew)).then_some((&party.party, function))
        })
    }
}

/// When a breach began that was first seen at a time of the wall clock and has held for so long at least. The clock may have
/// been set back since: nothing begins after it was noticed.
pub fn breach_start(first_seen: SystemTime, held: Duration, now: SystemTime) -> SystemTime {
    if first_seen <= now {
        return first_seen;
    }
    let start = now.checked_sub(held).unwrap_or(SystemTime::UNIX_EPOCH);
    start.max(SystemTime::UNIX_EPOCH)
}

/// Takes the evidence of a breach out of what is kept. Windows of the store end when they are full: what was sampled last
/// is in it only if the current window was ended before. Windows are picked by the clock that nobody sets; of a breach that an
/// earlier daemon saw begin, by the time of day.
pub fn gather(store: &Mutex<Store>, board: &Board, breach: &Breach, course: Option<Course>) -> Evidence {
    let start = breach.start.max(back(breach.end, MAX_BREACH));
    // The quiet time is what lies before the breach, however much of a long breach is kept, and holds nothing of it.
    let quiet_end = back(breach.start, breach.seen_late);
    let span = |start, end| Span {
        start: Some(start),
        end,
    };
    let (quiet_span, span) = (span(back(quiet_end, MAX_QUIET), quiet_end), span(start, breach.end));
    let (quiet, during) = {
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        match course {
            Some(course) => {
                let (kept, during) = (course.quiet(&store, quiet_span), course.during(&store, span));
                let quiet = match course.held {
                    Some(held) => held.and(kept),
                    None => kept,
                };
                (quiet, during)
            }
            None => {
                let select = |span| store.select(Target::Everything, span);
                (select(quiet_span).ended(), select(span))
            }
        }
    };
    let comparison = compare(&quiet, &during);
    let from = back(start, READINGS_BEFORE);
    let step = breach.end.duration_since(from).unwrap_or_default() / READING_STEPS;
    let step = step.max(Duration::from_secs(1));
    let mut evidence = Evidence {
        breach: breach.clone(),
        during: keep(&during),
        quiet: keep(&quiet),
        comparison,
        readings: Vec::new(),
        readings_from: from,
        step,
        memory: None,
    };
    evidence.readings = readings(board, &evidence);
    evidence
}

fn back(time: SystemTime, span: Duration) -> SystemTime {
    time.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn compare(quiet: &Selection, during: &Selection) -> Comparison {
    let mut comparer = Comparer::new(Settings {
        measure: Measure::Cores,
        scope: Scope::Host,
        level: LEVEL,
    });
    for (side, selection) in [(Side::Before, quiet), (Side::After, during)] {
        for window in selection.windows() {
            comparer.add(side, &window.view(View::default()));
        }
    }
    let mut comparison = comparer.finish();
    comparison.prune(SMALLEST_SHARE);
    let mut unchanged = 0;
    comparison.functions.retain(|function| {
        unchanged += usize::from(!function.is_significant());
        function.is_significant() || unchanged <= MAX_UNCHANGED
    });
    comparison
}

/// The heaviest stacks of a selection.
fn keep(selection: &Selection) -> Option<KeptProfile> {
    Some(heaviest(selection.merge().ok()?.profile))
}

fn heaviest(mut profile: Profile) -> KeptProfile {
    let all = profile.samples();
    if profile.stacks.len() > MAX_STACKS {
        let mut stacks: Vec<_> = std::mem::take(&mut profile.stacks).into_iter().collect();
        stacks.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        stacks.truncate(MAX_STACKS);
        profile.stacks = stacks.into_iter().collect();
    }
    let left_out = all.saturating_sub(profile.samples());
    // Shown as it is; frames that no stack has any more go.
    let whole = View {
        native_python: true,
        ..View::default()
    };
    KeptProfile {
        profile: profile.view(whole),
        left_out,
    }
}

fn readings(board: &Board, evidence: &Evidence) -> Vec<Track> {
    let now = Board::now();
    let steps = Steps {
        from: now.steady_of(evidence.readings_from),
        to: now.steady_of(evidence.breach.end),
        step: evidence.step,
    };
    let grown: Vec<Subject> = evidence
        .grown()
        .filter_map(|party| match &party.party {
            Party::Service(name) => Some(Subject::Service(name.clone())),
            Party::Program(_) | Party::Process(_) => None,
        })
        .collect();
    let own = &evidence.breach.subject;
    let series = board.series();
    // Of a process also what its service did.
    let service = series
        .series()
        .find(|series| series.subject == own)
        .and_then(|series| Some(Subject::Service(series.owner?.service.clone())));
    let wanted = |subject: &Subject| {
        *subject == Subject::Host || subject == own || service.as_ref() == Some(subject) || grown.contains(subject)
    };
    let tracks = series
        .series()
        .filter(|series| wanted(series.subject))
        .map(|series| Track {
            metric: series.metric,
            subject: series.subject.clone(),
            owner: series.owner.cloned(),
            range: series.range(steps, &[]),
        });
    tracks
        .filter(|track| !track.range.buckets.is_empty())
        .take(MAX_TRACKS)
        .collect()
}

//! Whether the memory of processes and services grows, and how fast.
//!
//! In: once a second what a process or a service holds. Out: once a minute a [`Verdict`] of each, and readings of how much of
//! the growth is certain. What is followed is anonymous memory, with what of it was swapped out: nothing else frees it
//! but the program itself. Pure: time is an argument. Bounded: of each subject the least value of each of the last
//! 360 minutes is kept, of at most [`MAX_FOLLOWED`] subjects; nothing outlives the daemon.

mod minima;
mod slope;
#[cfg(test)]
mod tests;
mod verdict;

use std::{collections::BTreeMap, time::Duration};

pub use self::verdict::{Pace, Trend, Verdict};
use self::{
    minima::{Minima, minute_of},
    verdict::verdict,
};
use crate::{Metric, Reading, Scope, Subject, source::Moment};

/// Most subjects that are followed.
const MAX_FOLLOWED: usize = 2048;
/// Minutes for which the verdict on a subject that is there no more is kept: whoever asks why it ended may want it.
const KEPT_SILENT_MINUTES: u64 = 10;

/// A verdict and whom it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectGrowth {
    /// A process or a service.
    pub subject: Subject,
    /// The least that it held in the newest minute.
    pub held_bytes: u64,
    /// The verdict.
    pub verdict: Verdict,
}

/// Follows memory.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    followed: BTreeMap<Subject, Followed>,
    /// The minute in which verdicts were last given.
    judged: Option<u64>,
}

#[derive(Debug, Default)]
struct Followed {
    minima: Minima,
    newest: Option<SubjectGrowth>,
}

impl Growth {
    /// Takes what a subject holds at a moment. Whether there was room for it.
    pub(crate) fn note(&mut self, subject: &Subject, at: Duration, bytes: u64) -> bool {
        if let Some(followed) = self.followed.get_mut(subject) {
            followed.minima.note(at, bytes);
            return true;
        }
        let has_room = self.followed.len() < MAX_FOLLOWED;
        if has_room {
            let mut followed = Followed::default();
            followed.minima.note(at, bytes);
            self.followed.insert(subject.clone(), followed);
        }
        has_room
    }

    /// Begins anew with a subject: what it was is there no more.
    pub(crate) fn forget(&mut self, subject: &Subject) {
        self.followed.remove(subject);
    }

    /// Gives verdicts if a minute is over. Whether it did.
    pub(crate) fn judge(&mut self, now: Moment, out: &mut Vec<Reading>) -> bool {
        let minute = minute_of(now.since_boot);
        if self.judged.is_some_and(|judged| judged >= minute) {
            return false;
        }
        self.judged = Some(minute);
        self.followed
            .retain(|_, followed| minute.saturating_sub(followed.minima.last_minute()) <= KEPT_SILENT_MINUTES);
        for (subject, followed) in &mut self.followed {
            followed.minima.close(minute);
            let minutes = followed.minima.until(minute);
            // Without a value in the last minute the verdict is that of when there was one.
            let Some(Some(held)) = minutes.last() else { continue };
            let found = SubjectGrowth {
                subject: subject.clone(),
                held_bytes: *held as u64,
                verdict: verdict(&minutes),
            };
            let metric = match subject.scope() {
                Scope::Service => Metric::ServiceMemoryGrowth,
                _ => Metric::ProcessMemoryGrowth,
            };
            if found.verdict.pace.is_some() {
                out.push(now.reading(metric, subject.clone(), found.verdict.certain));
            }
            followed.newest = Some(found);
        }
        true
    }

    /// The newest verdicts, by subject.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = &SubjectGrowth> {
        self.followed.values().filter_map(|followed| followed.newest.as_ref())
    }
}

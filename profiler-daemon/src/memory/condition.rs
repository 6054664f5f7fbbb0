//! How the keeper of pages does, for whoever only has its handle.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use profiler_store::GrowthStatus;

use super::{KeptStatus, NamedFaults};
use crate::health::PartState;

/// A turn that takes longer is told of.
const LATE: Duration = Duration::from_secs(30);
/// How long it is told of that pages could not be looked at.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// Reasons of loss: the keeper was behind; the stack was not among those of its window; nobody could look what became of the
/// pages.
pub(super) const LOST_BACKLOG: &str = "keeper_backlog";
pub(super) const LOST_NO_STACK: &str = "no_stack";
pub(super) const LOST_NOT_LOOKED_AT: &str = "not_looked_at";

/// What the keeper says of itself while it works.
#[derive(Debug, Default)]
pub(super) struct Condition {
    has_failed: AtomicBool,
    /// When it began with what it does now; none while it waits.
    turn: Mutex<Option<Instant>>,
    /// When pages could not be looked at last, and why.
    refused: Mutex<Option<(Instant, String)>>,
    not_looked_at: AtomicU64,
    without_stack: AtomicU64,
    /// Faults that found no room in the queue.
    dropped: AtomicU64,
    /// Lost with windows that found no room, and not told yet in a later one.
    missed: Mutex<BTreeMap<String, u64>>,
    /// What was kept at the end of the last turn.
    kept: Mutex<GrowthStatus>,
}

impl Condition {
    /// It does something, or waits again.
    pub(super) fn note_turn(&self, begun: Option<Instant>) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    /// It will answer no more.
    pub(super) fn note_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// Faults whose pages could not be looked at, at a time.
    pub(super) fn note_refused(&self, touches: u64, reason: &str, now: Instant) {
        self.not_looked_at.fetch_add(touches, Ordering::Relaxed);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, reason.to_owned()));
    }

    /// Faults whose stacks were not among those of their window.
    pub(super) fn note_without_stack(&self, touches: u64) {
        self.without_stack.fetch_add(touches, Ordering::Relaxed);
    }

    /// A window found no room: its faults are lost, and who asks about the next is to hear what was lost in this one.
    pub(super) fn note_dropped(&self, window: &NamedFaults) {
        let touches = window.touches();
        self.dropped.fetch_add(touches, Ordering::Relaxed);
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut missed, LOST_BACKLOG, touches);
        for (reason, count) in &window.lost {
            add(&mut missed, reason, *count);
        }
    }

    /// What was lost with windows that found no room, since it was last asked.
    pub(super) fn take_missed(&self) -> BTreeMap<String, u64> {
        mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is kept now.
    pub(super) fn note_kept(&self, growth: GrowthStatus) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = growth;
    }

    /// What was kept at the end of the last turn, and what was lost up to now.
    pub(super) fn status(&self) -> KeptStatus {
        let lost = [
            (LOST_BACKLOG, &self.dropped),
            (LOST_NO_STACK, &self.without_stack),
            (LOST_NOT_LOOKED_AT, &self.not_looked_at),
        ];
        KeptStatus {
            growth: *self.kept.lock().unwrap_or_else(PoisonError::into_inner),
            lost: lost.map(|(reason, count)| (reason, count.load(Ordering::Relaxed))),
        }
    }

    /// What is wrong at a time, if anything is.
    pub(super) fn trouble(&self, now: Instant) -> Option<PartState> {
        if self.has_failed.load(Ordering::Acquire) {
            return Some(PartState::thread_panicked());
        }
        let begun = *self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_some_and(|begun| now.saturating_duration_since(begun) > LATE) {
            let late = LATE.as_secs();
            return Some(PartState::Late {
                reason: format!("looking at the pages of processes takes longer than {late} s"),
                remedy: "Look for a process in an uninterruptible wait (state D).".to_owned(),
            });
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, reason) = refused
            .as_ref()
            .filter(|(last, _)| now.saturating_duration_since(*last) < TOLD_FOR)?;
        Some(PartState::Failed {
            reason: format!("what processes still have of the pages that they touched cannot be told of all: {reason}"),
            remedy: "Let the daemon read /proc/PID/pagemap (CAP_SYS_PTRACE), and open more files.".to_owned(),
        })
    }
}

/// Adds what was lost for a reason, if anything was.
pub(super) fn add(lost: &mut BTreeMap<String, u64>, reason: &str, count: u64) {
    if count > 0 {
        *lost.entry(reason.to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_told() {
        let condition = Condition::default();
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(condition.trouble(now), None);
        condition.note_refused(3, "not permitted", now);
        assert_eq!(condition.status().lost[2], (LOST_NOT_LOOKED_AT, 3));
        assert!(
            matches!(condition.trouble(after(59)), Some(PartState::Failed { reason, .. }) if reason.contains("not permitted"))
        );
        condition.note_turn(Some(after(61)));
        assert_eq!(condition.trouble(after(62)), None);
        assert!(matches!(condition.trouble(after(92)), Some(PartState::Late { .. })));
        condition.note_turn(None);
        assert_eq!(condition.trouble(after(92)), None);
        condition.note_failed();
        assert_eq!(condition.trouble(after(92)), Some(PartState::thread_panicked()));
    }
}

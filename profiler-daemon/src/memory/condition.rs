//! How the keeper of pages does, for whoever only has its handle.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::health::PartState;

/// A turn that takes longer is told of.
const LATE: Duration = Duration::from_secs(30);
/// How long it is told of that pages could not be looked at.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// What the keeper says of itself while it works.
#[derive(Debug, Default)]
pub(super) struct Condition {
    has_failed: AtomicBool,
    /// When it began with what it does now; none while it waits.
    turn: Mutex<Option<Instant>>,
    /// When pages could not be looked at last, and why.
    refused: Mutex<Option<(Instant, String)>>,
    not_looked_at: AtomicU64,
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

    /// Faults since the start whose pages could not be looked at.
    pub(super) fn not_looked_at(&self) -> u64 {
        self.not_looked_at.load(Ordering::Relaxed)
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
        assert_eq!(condition.not_looked_at(), 3);
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

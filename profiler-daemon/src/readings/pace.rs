//! When the next round is due.

use std::time::Duration;

/// Rounds at even distances. One that cannot be begun before the next is due is left out, not made up for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    every: Duration,
    due: Duration,
}

impl Pace {
    /// The first round is due now.
    pub(super) fn new(every: Duration, now: Duration) -> Self {
        Self { every, due: now }
    }

    /// Begins a round if one is due, and says how many were left out before it.
    pub(super) fn take(&mut self, now: Duration) -> Option<u64> {
        let late = now.checked_sub(self.due)?;
        let missed = u64::try_from(late.as_nanos() / self.every.as_nanos().max(1)).unwrap_or(u64::MAX);
        let steps = u32::try_from(missed.saturating_add(1)).unwrap_or(u32::MAX);
        self.due = self.due.saturating_add(self.every.saturating_mul(steps));
        Some(missed)
    }

    /// Time until the next round is due.
    pub(super) fn rest(&self, now: Duration) -> Duration {
        self.due.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_keep_their_distance_and_missed_ones_are_counted() {
        let at = Duration::from_millis;
        let mut pace = Pace::new(at(1000), at(500));
        assert_eq!(pace.take(at(500)), Some(0));
        assert_eq!((pace.take(at(1499)), pace.rest(at(1499))), (None, at(1)));
        // A late one does not put off those after it.
        assert_eq!(pace.take(at(1900)), Some(0));
        assert_eq!(pace.rest(at(1900)), at(600));
        assert_eq!(pace.take(at(2500)), Some(0));
        // The host was suspended, or had no CPU for us.
        assert_eq!(pace.take(at(7600)), Some(4));
        assert_eq!(pace.rest(at(7600)), at(900));
    }
}

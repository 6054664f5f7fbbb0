//! When a window begins and ends, though the time of day may be set meanwhile.

use std::time::{Duration, Instant, SystemTime};

/// Least distance between the two clocks of a [`Moment`] that is a step of the time of day.
const CLOCK_STEP: Duration = Duration::from_millis(200);

/// A moment on the clock that people read, which may be set, and on one that never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day.
    pub time: SystemTime,
    /// What tells how long something took.
    pub steady: Instant,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            time: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// The time of day at which an interval began that ends at `self`, as the clock stands then. If the clock was set
    /// meanwhile, the interval is as long as it was and lies just before its end; if not, it begins where the one before ended.
    pub(super) fn start_of_interval(&self, begun: &Self) -> SystemTime {
        let length = self.steady.saturating_duration_since(begun.steady);
        let start = self.time.checked_sub(length).unwrap_or(self.time);
        let step = start
            .duration_since(begun.time)
            .unwrap_or_else(|error| error.duration());
        if step < CLOCK_STEP && begun.time <= self.time {
            begun.time
        } else {
            start
        }
    }
}

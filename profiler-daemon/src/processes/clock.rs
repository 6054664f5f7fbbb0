//! The clocks that processes are kept by.

use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Least difference of two readings that is a step of the clock.
const CLOCK_STEP: Duration = Duration::from_millis(200);

/// A moment on the two clocks that processes are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For leases.
    pub instant: Instant,
    /// `CLOCK_MONOTONIC` in nanoseconds, as records have it.
    pub monotonic_ns: u64,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            monotonic_ns: since_zero(ClockId::Monotonic),
        }
    }
}

/// How long the host runs, its suspensions included: a clock that nobody sets.
pub fn uptime() -> Duration {
    Duration::from_nanos(since_zero(ClockId::Boottime))
}

/// Turns times of the kernel into times of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// When the host was started.
    pub boot: SystemTime,
    /// When `CLOCK_MONOTONIC` was zero: later than that by the time that the host was suspended.
    pub monotonic_zero: SystemTime,
    /// Ticks a second in `/proc/PID/stat`.
    pub ticks_per_second: u64,
}

impl Clock {
    /// Reads the clocks of this host.
    pub fn read() -> Self {
        let now = SystemTime::now();
        let before = |clock| now - Duration::from_nanos(since_zero(clock));
        Self {
            boot: before(ClockId::Boottime),
            monotonic_zero: before(ClockId::Monotonic),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    /// Takes another reading of the clocks if the time of day was set, or the host suspended. The differences of two readings,
    /// and slow corrections, are left alone: what a process's start is must not depend on when it was looked at.
    pub(super) fn follow(&mut self, now: Self) {
        let is_other = |before: SystemTime, now: SystemTime| {
            let apart = now.duration_since(before).unwrap_or_else(|error| error.duration());
            apart >= CLOCK_STEP
        };
        if is_other(self.boot, now.boot) || is_other(self.monotonic_zero, now.monotonic_zero) {
            *self = now;
        }
    }

    pub(super) fn of_ticks(&self, ticks: u64) -> SystemTime {
        let seconds = ticks / self.ticks_per_second;
        let rest_ns = ticks % self.ticks_per_second * 1_000_000_000 / self.ticks_per_second;
        self.boot
            .checked_add(Duration::new(seconds, rest_ns as u32))
            .unwrap_or(self.boot)
    }

    /// How long the host ran at a time of the monotonic clock, its suspensions included.
    pub(super) fn since_boot(&self, time_ns: u64) -> Duration {
        self.of_monotonic(time_ns).duration_since(self.boot).unwrap_or_default()
    }

    pub(super) fn of_monotonic(&self, time_ns: u64) -> SystemTime {
        self.monotonic_zero
            .checked_add(Duration::from_nanos(time_ns))
            .unwrap_or(self.monotonic_zero)
    }
}

fn since_zero(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_steps_and_suspends_but_not_jitter() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let clock = |boot, zero| Clock {
            boot: at(boot),
            monotonic_zero: at(zero),
            ticks_per_second: 100,
        };
        let first = clock(1_000_000, 1_000_000);
        for (now, expected) in [
            (clock(1_000_003, 999_998), first),
            // The time of day was set forward, or back.
            (clock(4_600_000, 4_600_000), clock(4_600_000, 4_600_000)),
            (clock(400_000, 400_000), clock(400_000, 400_000)),
            // Suspended for a minute: the monotonic clock stood still.
            (clock(1_000_000, 1_060_000), clock(1_000_000, 1_060_000)),
        ] {
            let mut followed = first;
            followed.follow(now);
            assert_eq!(followed, expected);
        }
        let mut followed = first;
        followed.follow(clock(4_600_000, 4_600_000));
        assert_eq!(
            (followed.of_ticks(250), followed.of_monotonic(1_000_000)),
            (at(4_602_500), at(4_600_001))
        );
        let mut suspended = first;
        suspended.follow(clock(1_000_000, 1_060_000));
        assert_eq!(first.since_boot(5_000_000_000), Duration::from_secs(5));
        assert_eq!(suspended.since_boot(5_000_000_000), Duration::from_secs(65));
    }
}

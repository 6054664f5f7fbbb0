//! Since when a census waits for the kernel. What it asks for may never come: a page of a file system that hangs, or one that
//! another program has to provide (userfaultfd).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Since when a thread waits, for others to see.
#[derive(Debug)]
pub(super) struct Waits {
    epoch: Instant,
    /// In milliseconds after the epoch, and one more; 0 while it does not wait.
    since: AtomicU64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            since: AtomicU64::new(0),
        }
    }
}

impl Waits {
    /// Does what may wait for good.
    pub(super) fn during<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.since.store(self.now().saturating_add(1), Ordering::Relaxed);
        let answer = ask();
        self.since.store(0, Ordering::Relaxed);
        answer
    }

    /// For how long it has waited now.
    pub(super) fn waited(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since - 1)),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_waited_for_now_counts() {
        let waits = Waits::default();
        assert_eq!(waits.waited(), Duration::ZERO);
        let long = Duration::from_millis(30);
        let waited = waits.during(|| {
            std::thread::sleep(long);
            waits.waited()
        });
        assert!(waited + Duration::from_millis(1) >= long, "{waited:?}");
        assert_eq!(waits.waited(), Duration::ZERO, "it came");
    }
}

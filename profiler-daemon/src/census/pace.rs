//! How fast a census reads: a little, then a pause; until its time is over, or nobody waits for it any more.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::gettid;

/// Work at one go, and the pause after it: a quarter of a CPU at most.
const WORK: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(6);
/// The lowest priority that there is.
const NICE: i32 = 19;

/// Keeps time.
pub(super) struct Pace<'a> {
    deadline: Cell<Instant>,
    resumed: Cell<Instant>,
    worked: Cell<Duration>,
    is_unwanted: &'a dyn Fn() -> bool,
    unwanted: Cell<bool>,
}

impl<'a> Pace<'a> {
    /// A pace until so long from now.
    pub(super) fn new(limit: Duration, is_unwanted: &'a dyn Fn() -> bool) -> Self {
        let now = Instant::now();
        Self {
            deadline: Cell::new(now + limit),
            resumed: Cell::new(now),
            worked: Cell::new(Duration::ZERO),
            is_unwanted,
            unwanted: Cell::new(false),
        }
    }

    /// Gives what comes next its own time.
    pub(super) fn extend(&self, limit: Duration) {
        self.deadline.set(Instant::now() + limit);
    }

    /// Pauses if it is time to. False if no more is to be read.
    pub(super) fn go_on(&self) -> bool {
        let now = Instant::now();
        let worked = now.saturating_duration_since(self.resumed.get());
        if worked >= WORK {
            self.worked.set(self.worked.get() + worked);
            self.unwanted.set(self.unwanted.get() || (self.is_unwanted)());
            if !self.unwanted.get() {
                thread::sleep(PAUSE);
            }
            self.resumed.set(Instant::now());
        }
        !self.is_over()
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.unwanted.get() || Instant::now() >= self.deadline.get()
    }

    /// Whether nobody waits any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.get()
    }

    /// Time spent on work.
    pub(super) fn worked(&self) -> Duration {
        self.worked.get() + self.resumed.get().elapsed()
    }
}

/// Gives the thread that calls this the lowest priority.
pub(super) fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(Some(gettid()), NICE) {
        tracing::warn!(%error, "a census has the priority of the daemon");
    }
}

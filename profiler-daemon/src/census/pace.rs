//! How fast a census reads: a little, then a pause; until its time is over, or nobody waits for it any more.

use std::{
    cell::Cell,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    thread::gettid,
    time::{ClockId, clock_gettime},
};

use super::waits::Waits;

/// CPU time at one go, and the pause after it: a quarter of a CPU at most.
const WORK: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(6);
/// The priority: a third of what others have where CPUs are short. With less it would take minutes on a busy host.
const NICE: i32 = 5;

/// Keeps time.
pub(super) struct Pace<'a> {
    deadline: Cell<Instant>,
    looked: Cell<Instant>,
    resumed: Cell<Duration>,
    started: Duration,
    /// Whether nobody waits any more; is told of the CPU time spent since it was last asked.
    is_unwanted: &'a dyn Fn(Duration) -> bool,
    unwanted: Cell<bool>,
    waits: Arc<Waits>,
}

impl<'a> Pace<'a> {
    /// A pace until so long from now.
    pub(super) fn new(limit: Duration, is_unwanted: &'a dyn Fn(Duration) -> bool) -> Self {
        let (now, spent) = (Instant::now(), spent());
        Self {
            deadline: Cell::new(now + limit),
            looked: Cell::new(now),
            resumed: Cell::new(spent),
            started: spent,
            is_unwanted,
            unwanted: Cell::new(false),
            waits: Arc::default(),
        }
    }

    /// The same, which tells there for how long it waits.
    pub(super) fn telling(self, waits: &Arc<Waits>) -> Self {
        Self {
            waits: Arc::clone(waits),
            ..self
        }
    }

    /// Asks the kernel for what may never come.
    pub(super) fn during<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.waits.during(ask)
    }

    /// Gives what comes next its own time.
    pub(super) fn extend(&self, limit: Duration) {
        self.deadline.set(Instant::now() + limit);
    }

    /// Pauses if it is time to. False if no more is to be read.
    pub(super) fn go_on(&self) -> bool {
        // The clock of the thread is a system call.
        if self.looked.get().elapsed() >= WORK {
            let worked = spent().saturating_sub(self.resumed.get());
            if worked >= WORK {
                self.ask(worked);
                if !self.unwanted.get() {
                    thread::sleep(PAUSE);
                }
            }
            self.looked.set(Instant::now());
        }
        !self.is_over()
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.unwanted.get() || Instant::now() >= self.deadline.get()
    }

    /// Whether nobody waits any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.ask(spent().saturating_sub(self.resumed.get()));
        self.unwanted.get()
    }

    /// CPU time spent so far.
    pub(super) fn busy(&self) -> Duration {
        spent().saturating_sub(self.started)
    }

    fn ask(&self, worked: Duration) {
        let is_unwanted = (self.is_unwanted)(worked);
        self.resumed.set(self.resumed.get() + worked);
        self.unwanted.set(self.unwanted.get() || is_unwanted);
    }
}

/// CPU time of this thread.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Gives the thread that calls this a low priority.
pub(super) fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(Some(gettid()), NICE) {
        tracing::warn!(%error, "a census has the priority of the daemon");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_paused_and_ends() {
        let told = Cell::new(Duration::ZERO);
        let note = |worked| {
            told.set(told.get() + worked);
            false
        };
        let pace = Pace::new(Duration::from_millis(300), &note);
        let start = Instant::now();
        while pace.go_on() {}
        let (busy, took) = (pace.busy(), start.elapsed());
        assert!(took >= Duration::from_millis(299));
        assert!(busy <= took.mul_f64(0.4), "{busy:?} of {took:?}");
        assert!(!pace.is_unwanted());
        assert!(told.get() <= pace.busy() && told.get() + 2 * WORK >= busy, "{told:?}");
    }

    #[test]
    fn who_leaves_ends_it() {
        let pace = Pace::new(Duration::from_secs(600), &|_| true);
        while pace.go_on() {}
        assert!(pace.is_over() && pace.is_unwanted());
    }
}

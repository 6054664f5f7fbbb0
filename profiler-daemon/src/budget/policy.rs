//! When to give something up, what, and when to take it back. Pure: time and readings are arguments.
//!
//! A cap is a fuse well above the target, so that only trouble reaches it. Each step gets time to show in the readings
//! before the next. A step is taken back when everything has been clear of the caps for a while; one that soon has to be
//! taken again waits longer the next time.

use std::{collections::VecDeque, time::Duration};

/// Time over which CPU is averaged, and after a step until the next.
const SPAN: Duration = Duration::from_secs(10);
/// Time after the start in which CPU is not held against its cap: everything that runs is read once.
const START: Duration = Duration::from_secs(30);
/// Time that everything must be clear before a step is taken back.
const CLEAR_FOR: Duration = Duration::from_secs(30);
/// Longest that it becomes when steps taken back had to be taken again.
const CLEAR_FOR_MOST: Duration = Duration::from_secs(600);
/// Share of the cap below which CPU is clear: taking back a step at most doubles it, and must stay below the cap.
const CLEAR_CPU: f64 = 0.4;
/// Share of the cap below which memory is clear.
const CLEAR_MEMORY: f64 = 0.8;
/// Fewest samples a second on each CPU that the rate is reduced to.
const FLOOR_HZ: u32 = 10;
const MIB: f64 = (1 << 20) as f64;

/// What the daemon may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caps {
    /// CPU of the daemon and its programs in the kernel, as a share of the host.
    pub cpu_share: f64,
    /// Anonymous and shared resident memory.
    pub memory_bytes: u64,
    /// Maps and programs in the kernel.
    pub kernel_bytes: u64,
}

/// What it costs at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Time since the start.
    pub at: Duration,
    /// CPU used since the start, by the daemon and its programs in the kernel.
    pub cpu: Duration,
    /// Anonymous and shared resident memory.
    pub memory_bytes: u64,
    /// Maps and programs in the kernel.
    pub kernel_bytes: u64,
}

/// Something given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Half of the samples.
    HalveRate,
    /// Cached symbols; the caches stay small.
    DropCaches,
}

/// What a reading leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give this up.
    Shed(Step),
    /// Take this back.
    Recover(Step),
}

/// Where the daemon stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is given up, and no cap is exceeded.
    #[default]
    Within,
    /// Something is given up.
    Shedding,
    /// A cap is exceeded, and nothing is left to give up for it.
    Exhausted,
}

#[derive(Clone, Copy, Debug)]
enum Cause {
    Cpu,
    Memory,
    Kernel,
}

/// Decides by readings.
#[derive(Debug)]
pub struct Policy {
    caps: Caps,
    cpus: u32,
    max_halvings: usize,
    readings: VecDeque<Reading>,
    taken: Vec<Step>,
    state: State,
    reason: String,
    last_change: Option<Duration>,
    last_recovery: Option<Duration>,
    clear_since: Option<Duration>,
    clear_for: Duration,
}

impl Policy {
    /// Nothing is given up yet.
    pub fn new(caps: Caps, cpus: u32, sample_hz: u32) -> Self {
        Self {
            caps,
            cpus: cpus.max(1),
            max_halvings: (sample_hz / FLOOR_HZ).checked_ilog2().unwrap_or(0) as usize,
            readings: VecDeque::new(),
            taken: Vec::new(),
            state: State::Within,
            reason: String::new(),
            last_change: None,
            last_recovery: None,
            clear_since: None,
            clear_for: CLEAR_FOR,
        }
    }

    /// Takes a reading, not older than the last.
    pub fn on_reading(&mut self, reading: Reading) -> Option<Change> {
        self.readings.push_back(reading);
        while self
            .readings
            .get(1)
            .is_some_and(|second| second.at + SPAN <= reading.at)
        {
            self.readings.pop_front();
        }
        let has_settled = self.last_change.is_none_or(|changed| changed + SPAN <= reading.at);
        if let Some(cause) = self.exceeded(reading) {
            self.clear_since = None;
            if !has_settled {
                return None;
            }
            self.reason = self.describe(cause, reading);
            let Some(step) = self.next_step(cause) else {
                self.state = State::Exhausted;
                return None;
            };
            // Soon is measured by the wait itself, so that a load which returns at any pace is waited out in the end.
            let is_soon = |recovery: Duration| recovery + SPAN + self.clear_for > reading.at;
            self.clear_for = match self.last_recovery {
                Some(recovery) if is_soon(recovery) => (self.clear_for * 2).min(CLEAR_FOR_MOST),
                Some(_) => CLEAR_FOR,
                None => self.clear_for,
            };
            self.taken.push(step);
            self.last_change = Some(reading.at);
            self.state = State::Shedding;
            return Some(Change::Shed(step));
        }
        if self.taken.is_empty() {
            self.state = State::Within;
            self.reason.clear();
            return None;
        }
        self.state = State::Shedding;
        if !self.is_clear(reading) {
            self.clear_since = None;
            return None;
        }
        let since = *self.clear_since.get_or_insert(reading.at);
        if !has_settled || since + self.clear_for > reading.at {
            return None;
        }
        let step = self.taken.pop()?;
        self.clear_since = None;
        self.last_change = Some(reading.at);
        self.last_recovery = Some(reading.at);
        if self.taken.is_empty() {
            self.state = State::Within;
            self.reason.clear();
        }
        Some(Change::Recover(step))
    }

    /// The state since the last reading.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why something is given up; empty if nothing is.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What one sample stands for, as a multiple of the configured period.
    pub fn period_factor(&self) -> u32 {
        1 << self.halvings()
    }

    /// What is given up, in words and in the order in which it was.
    pub fn shed(&self) -> Vec<String> {
        let mut halvings = 0;
        let words = |step: &Step| match step {
            Step::HalveRate => {
                halvings += 1;
                format!("sampling rate divided by {}", 1_u32 << halvings)
            }
            Step::DropCaches => "cached symbols dropped, caches held at a quarter".to_owned(),
        };
        self.taken.iter().map(words).collect()
    }

    /// Average share of the host over the last seconds.
    pub fn cpu_share(&self) -> f64 {
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return 0.0;
        };
        let wall = last.at.saturating_sub(first.at).as_secs_f64() * f64::from(self.cpus);
        if wall > 0.0 {
            last.cpu.saturating_sub(first.cpu).as_secs_f64() / wall
        } else {
            0.0
        }
    }

    fn halvings(&self) -> usize {
        self.taken.iter().filter(|step| **step == Step::HalveRate).count()
    }

    fn exceeded(&self, reading: Reading) -> Option<Cause> {
        let has_average = self.readings.front().is_some_and(|first| first.at + SPAN <= reading.at);
        let (cpu, caps) = (self.cpu_share(), self.caps);
        if has_average && reading.at >= START && cpu > caps.cpu_share {
            Some(Cause::Cpu)
        } else if reading.memory_bytes > caps.memory_bytes {
            Some(Cause::Memory)
        } else {
            (reading.kernel_bytes > caps.kernel_bytes).then_some(Cause::Kernel)
        }
    }

    fn is_clear(&self, reading: Reading) -> bool {
        self.cpu_share() < self.caps.cpu_share * CLEAR_CPU
            && (reading.memory_bytes as f64) < self.caps.memory_bytes as f64 * CLEAR_MEMORY
            && reading.kernel_bytes <= self.caps.kernel_bytes
    }

    /// What helps against a cause. Dropped caches cost CPU; memory of the kernel is bounded by the rows that may be loaded, and
    /// no step frees it.
    fn next_step(&self, cause: Cause) -> Option<Step> {
        let can_halve = self.halvings() < self.max_halvings;
        match cause {
            Cause::Cpu => can_halve.then_some(Step::HalveRate),
            Cause::Memory if !self.taken.contains(&Step::DropCaches) => Some(Step::DropCaches),
            Cause::Memory => can_halve.then_some(Step::HalveRate),
            Cause::Kernel => None,
        }
    }

    fn describe(&self, cause: Cause, reading: Reading) -> String {
        let mib = |bytes: u64| bytes as f64 / MIB;
        match cause {
            Cause::Cpu => format!(
                "CPU at {:.2} % of the host, cap {:.2} %",
                self.cpu_share() * 100.0,
                self.caps.cpu_share * 100.0
            ),
            Cause::Memory => format!(
                "memory at {:.1} MiB, cap {:.1} MiB",
                mib(reading.memory_bytes),
                mib(self.caps.memory_bytes)
            ),
            Cause::Kernel => format!(
                "memory in the kernel at {:.1} MiB, cap {:.1} MiB",
                mib(reading.kernel_bytes),
                mib(self.caps.kernel_bytes)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps {
        cpu_share: 0.02,
        memory_bytes: 100 << 20,
        kernel_bytes: 64 << 20,
    };

    /// A daemon on two CPUs that is looked at once a second.
    struct Run {
        policy: Policy,
        reading: Reading,
        changes: Vec<(u64, Change)>,
    }

    impl Run {
        fn new() -> Self {
            Self {
                policy: Policy::new(CAPS, 2, 99),
                reading: Reading::default(),
                changes: Vec::new(),
            }
        }

        /// Lets seconds pass in which the daemon uses a share of the host, divided by what the rate is divided by.
        fn pass(&mut self, seconds: u64, share: f64, memory_mib: u64) {
            for _ in 0..seconds {
                let share = share / f64::from(self.policy.period_factor());
                self.reading.at += Duration::from_secs(1);
                self.reading.cpu += Duration::from_secs_f64(2.0 * share);
                self.reading.memory_bytes = memory_mib << 20;
                if let Some(change) = self.policy.on_reading(self.reading) {
                    self.changes.push((self.reading.at.as_secs(), change));
                }
            }
        }
    }

    #[test]
    fn within_the_caps_nothing_happens() {
        let mut run = Run::new();
        // The start may cost what it must.
        run.pass(15, 0.5, 50);
        run.pass(600, 0.015, 90);
        assert_eq!(run.changes, []);
        assert_eq!((run.policy.state(), run.policy.reason()), (State::Within, ""));
        assert!((run.policy.cpu_share() - 0.015).abs() < 1e-6);
    }

    #[test]
    fn the_rate_is_halved_step_by_step_to_its_floor() {
        let mut run = Run::new();
        run.pass(120, 1.0, 50);
        let times: Vec<u64> = run.changes.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [30, 40, 50], "{:?}", run.changes);
        assert!(
            run.changes
                .iter()
                .all(|(_, change)| *change == Change::Shed(Step::HalveRate))
        );
        assert_eq!((run.policy.period_factor(), run.policy.state()), (8, State::Exhausted));
        assert_eq!(run.policy.reason(), "CPU at 12.50 % of the host, cap 2.00 %");
        assert_eq!(run.policy.shed()[2], "sampling rate divided by 8");
    }

    #[test]
    fn what_was_given_up_comes_back_when_the_load_is_gone() {
        let mut run = Run::new();
        run.pass(60, 0.03, 50);
        assert_eq!(run.changes, [(30, Change::Shed(Step::HalveRate))]);
        // Below the cap but not clear: twice that would exceed it.
        run.pass(300, 0.025, 50);
        assert_eq!((run.changes.len(), run.policy.state()), (1, State::Shedding));
        run.pass(100, 0.005, 50);
        assert_eq!(run.changes[1..].len(), 1);
        assert_eq!(run.changes[1].1, Change::Recover(Step::HalveRate));
        assert_eq!((run.policy.state(), run.policy.reason()), (State::Within, ""));
        assert_eq!((run.policy.period_factor(), run.policy.shed().len()), (1, 0));
    }

    #[test]
    fn a_load_that_returns_each_minute_is_waited_out() {
        let mut run = Run::new();
        for _ in 0..40 {
            run.pass(12, 0.03, 50);
            run.pass(48, 0.001, 50);
        }
        // Taken back once; after that it is clear for too short a time, where a fixed wait would change the rate twice a minute.
        let changes: Vec<&Change> = run.changes.iter().map(|(_, change)| change).collect();
        let (shed, recover) = (Change::Shed(Step::HalveRate), Change::Recover(Step::HalveRate));
        assert_eq!(changes, [&shed, &recover, &shed]);
        run.pass(CLEAR_FOR_MOST.as_secs(), 0.001, 50);
        assert_eq!((run.changes.len(), run.policy.state()), (4, State::Within));
        // Long after that the wait is as short as at first.
        run.pass(1200, 0.001, 50);
        run.pass(12, 0.03, 50);
        assert_eq!(run.policy.clear_for, CLEAR_FOR);
    }

    #[test]
    fn memory_costs_the_caches_first() {
        let mut run = Run::new();
        run.pass(3, 0.0, 101);
        assert_eq!(run.changes, [(1, Change::Shed(Step::DropCaches))]);
        assert_eq!(run.policy.reason(), "memory at 101.0 MiB, cap 100.0 MiB");
        run.pass(20, 0.0, 101);
        assert_eq!(run.changes[1].1, Change::Shed(Step::HalveRate));
        run.pass(120, 0.0, 90);
        assert_eq!(run.policy.state(), State::Shedding, "not clear of the cap");
        run.pass(300, 0.0, 60);
        assert_eq!(run.policy.state(), State::Within);
        assert_eq!(run.changes.last().unwrap().1, Change::Recover(Step::DropCaches));
    }

    #[test]
    fn what_nothing_helps_against_is_said() {
        let mut run = Run::new();
        run.reading.kernel_bytes = 65 << 20;
        run.pass(60, 0.0, 50);
        assert_eq!((run.changes.len(), run.policy.state()), (0, State::Exhausted));
        run.reading.kernel_bytes = 60 << 20;
        run.pass(1, 0.0, 50);
        assert_eq!(run.policy.state(), State::Within);
    }
}

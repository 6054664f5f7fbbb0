//! When to give something up, what, and when to take it back. Pure: time and readings are arguments.
//!
//! A cap is a fuse well above the target, so that only trouble reaches it. Each step gets time to show in the readings
//! before the next. A step is taken back when everything has been clear of the caps for a while; one that soon has to be
//! taken again waits longer the next time.

use std::{collections::VecDeque, time::Duration};

/// Time after the start in which CPU is not held against its cap, as a multiple of the time over which it is averaged:
/// everything that runs is read once.
const START_SPANS: u32 = 3;
/// Longest that everything must be clear when steps taken back had to be taken again, as a multiple of the configured time.
const MOST_CLEAR_FOR: u32 = 20;
/// Share of the cap below which CPU is clear. Taking back a step at most doubles what samples cost, which is a part of the whole;
/// where it is more than there is room for, the step is taken again, and the next try waits longer.
const CLEAR_CPU: f64 = 0.6;
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

/// What the daemon may cost, and at which pace it is held to that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What it may cost.
    pub caps: Caps,
    /// Time over which CPU is averaged, and after a step until the next.
    pub averaged_over: Duration,
    /// Time that everything must be clear before a step is taken back.
    pub recover_after: Duration,
    /// Samples a second on each CPU as configured.
    pub sample_hz: u32,
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
    /// Processes watched that nobody asked for.
    pub discovered: u32,
}

/// Something given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Half of the samples.
    HalveRate,
    /// Cached symbols; the caches stay small.
    DropCaches,
    /// Unwind rows that no watched process uses; they are not kept for later any more.
    DropIdleRows,
    /// Discovered processes beyond this number. Those that were asked for stay.
    LimitDiscovered {
        /// How many may be watched.
        most: u32,
    },
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
    settings: Settings,
    cpus: u32,
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
    pub fn new(settings: Settings, cpus: u32) -> Self {
        Self {
            settings,
            cpus: cpus.max(1),
            readings: VecDeque::new(),
            taken: Vec::new(),
            state: State::Within,
            reason: String::new(),
            last_change: None,
            last_recovery: None,
            clear_since: None,
            clear_for: settings.recover_after,
        }
    }

    /// Other settings from now on. What is given up stays so until it is clear of the new caps; only a rate that would be
    /// below the least is raised to it.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.clear_for = settings.recover_after;
        self.clear_since = None;
        let mut surplus = self.halvings().saturating_sub(self.max_halvings());
        self.taken.retain(|step| {
            let is_surplus = surplus > 0 && *step == Step::HalveRate;
            surplus -= usize::from(is_surplus);
            !is_surplus
        });
    }

    /// Takes a reading, not older than the last.
    pub fn on_reading(&mut self, reading: Reading) -> Option<Change> {
        self.readings.push_back(reading);
        while self
            .readings
            .get(1)
            .is_some_and(|second| second.at + self.settings.averaged_over <= reading.at)
        {
            self.readings.pop_front();
        }
        let span = self.settings.averaged_over;
        let has_settled = self.last_change.is_none_or(|changed| changed + span <= reading.at);
        if let Some(cause) = self.exceeded(reading) {
            self.clear_since = None;
            if !has_settled {
                return None;
            }
            self.reason = self.describe(cause, reading);
            let Some(step) = self.next_step(cause, reading) else {
                self.state = State::Exhausted;
                return None;
            };
            // Soon is measured by the wait itself, so that a load which returns at any pace is waited out in the end.
            let is_soon = |recovery: Duration| recovery + span + self.clear_for > reading.at;
            let least = self.settings.recover_after;
            self.clear_for = match self.last_recovery {
                Some(recovery) if is_soon(recovery) => (self.clear_for * 2).min(least * MOST_CLEAR_FOR),
                Some(_) => least,
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

    /// Most discovered processes that may be watched; none if there is no such limit.
    pub fn max_discovered(&self) -> Option<u32> {
        self.taken.iter().rev().find_map(|step| match step {
            Step::LimitDiscovered { most } => Some(*most),
            _ => None,
        })
    }

    /// Whether something is given up.
    pub fn has_taken(&self, step: Step) -> bool {
        self.taken.contains(&step)
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
            Step::DropIdleRows => "unwind rows that no watched process uses dropped".to_owned(),
            Step::LimitDiscovered { most } => {
                format!("at most {most} discovered processes watched, the least sampled left out")
            }
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
        let (cpu, caps, span) = (self.cpu_share(), self.settings.caps, self.settings.averaged_over);
        let has_average = self.readings.front().is_some_and(|first| first.at + span <= reading.at);
        if has_average && reading.at >= span * START_SPANS && cpu > caps.cpu_share {
            Some(Cause::Cpu)
        } else if reading.memory_bytes > caps.memory_bytes {
            Some(Cause::Memory)
        } else {
            (reading.kernel_bytes > caps.kernel_bytes).then_some(Cause::Kernel)
        }
    }

    fn is_clear(&self, reading: Reading) -> bool {
        let caps = self.settings.caps;
        // Half of the rows or of the processes back can take as much again as there is.
        let clear_kernel = match self.has_given_up_rows() {
            true => (reading.kernel_bytes as f64) < caps.kernel_bytes as f64 * CLEAR_MEMORY,
            false => reading.kernel_bytes <= caps.kernel_bytes,
        };
        self.cpu_share() < caps.cpu_share * CLEAR_CPU
            && (reading.memory_bytes as f64) < caps.memory_bytes as f64 * CLEAR_MEMORY
            && clear_kernel
    }

    fn has_given_up_rows(&self) -> bool {
        self.taken.contains(&Step::DropIdleRows) || self.max_discovered().is_some()
    }

    /// What helps against a cause: first what costs least to do without. Processes go last, and those that were asked for not
    /// at all. Dropped caches cost CPU, and the rate does not change what the kernel holds.
    fn next_step(&self, cause: Cause, reading: Reading) -> Option<Step> {
        let once = |step: Step| (!self.taken.contains(&step)).then_some(step);
        let halve = || (self.halvings() < self.max_halvings()).then_some(Step::HalveRate);
        let limit = || {
            let most = reading.discovered / 2;
            (reading.discovered > 0).then_some(Step::LimitDiscovered { most })
        };
        match cause {
            Cause::Cpu => halve().or_else(limit),
            Cause::Memory => once(Step::DropCaches)
                .or_else(|| once(Step::DropIdleRows))
                .or_else(halve)
                .or_else(limit),
            Cause::Kernel => once(Step::DropIdleRows).or_else(limit),
        }
    }

    fn max_halvings(&self) -> usize {
        (self.settings.sample_hz / FLOOR_HZ).checked_ilog2().unwrap_or(0) as usize
    }

    fn describe(&self, cause: Cause, reading: Reading) -> String {
        let mib = |bytes: u64| bytes as f64 / MIB;
        match cause {
            Cause::Cpu => format!(
                "CPU at {:.2} % of the host, cap {:.2} %",
                self.cpu_share() * 100.0,
                self.settings.caps.cpu_share * 100.0
            ),
            Cause::Memory => format!(
                "memory at {:.1} MiB, cap {:.1} MiB",
                mib(reading.memory_bytes),
                mib(self.settings.caps.memory_bytes)
            ),
            Cause::Kernel => format!(
                "memory in the kernel at {:.1} MiB, cap {:.1} MiB",
                mib(reading.kernel_bytes),
                mib(self.settings.caps.kernel_bytes)
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
    const SETTINGS: Settings = Settings {
        caps: CAPS,
        averaged_over: Duration::from_secs(10),
        recover_after: Duration::from_secs(30),
        sample_hz: 99,
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
                policy: Policy::new(SETTINGS, 2),
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
    fn a_cost_that_is_not_of_samples_does_not_keep_them_away() {
        let mut run = Run::new();
        run.pass(50, 1.0, 50);
        assert_eq!(run.policy.period_factor(), 8);
        for _ in 0..300 {
            let share = 0.011 * f64::from(run.policy.period_factor());
            run.pass(1, share, 50);
        }
        assert_eq!((run.policy.period_factor(), run.policy.state()), (1, State::Within));
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
        run.pass(30 * u64::from(MOST_CLEAR_FOR), 0.001, 50);
        assert_eq!((run.changes.len(), run.policy.state()), (4, State::Within));
        // Long after that the wait is as short as at first.
        run.pass(1200, 0.001, 50);
        run.pass(12, 0.03, 50);
        assert_eq!(run.policy.clear_for, SETTINGS.recover_after);
    }

    #[test]
    fn memory_costs_the_caches_first() {
        let mut run = Run::new();
        run.pass(3, 0.0, 101);
        assert_eq!(run.changes, [(1, Change::Shed(Step::DropCaches))]);
        assert_eq!(run.policy.reason(), "memory at 101.0 MiB, cap 100.0 MiB");
        run.pass(20, 0.0, 101);
        assert_eq!(run.changes[1].1, Change::Shed(Step::DropIdleRows));
        assert_eq!(run.changes[2].1, Change::Shed(Step::HalveRate));
        run.pass(120, 0.0, 90);
        assert_eq!(run.policy.state(), State::Shedding, "not clear of the cap");
        run.pass(300, 0.0, 60);
        assert_eq!(run.policy.state(), State::Within);
        let recovered: Vec<Step> = run
            .changes
            .iter()
            .filter_map(|(_, change)| match change {
                Change::Recover(step) => Some(*step),
                Change::Shed(_) => None,
            })
            .collect();
        assert_eq!(
            recovered,
            [Step::HalveRate, Step::DropIdleRows, Step::DropCaches],
            "in reverse"
        );
        assert_eq!(run.changes.last().unwrap().1, Change::Recover(Step::DropCaches));
    }

    #[test]
    fn discovered_processes_go_when_the_rate_is_at_its_floor() {
        let mut run = Run::new();
        run.reading.discovered = 5;
        for (most, words) in [
            (2, "at most 2 discovered"),
            (1, "at most 1 discovered"),
            (0, "at most 0 discovered"),
        ] {
            let before = run.policy.max_discovered();
            while run.policy.max_discovered() == before {
                run.pass(1, 1.0, 50);
                assert!(run.reading.at < Duration::from_secs(120), "{:?}", run.changes);
            }
            assert_eq!(run.policy.max_discovered(), Some(most));
            assert!(run.policy.shed().last().unwrap().starts_with(words));
            run.reading.discovered = most;
        }
        assert_eq!(run.policy.period_factor(), 8);
        run.pass(20, 1.0, 50);
        assert_eq!(
            run.policy.state(),
            State::Exhausted,
            "what was asked for is not touched"
        );
        // The last comes back first, one step at a time.
        run.pass(45, 0.0, 50);
        assert_eq!((run.policy.max_discovered(), run.policy.period_factor()), (Some(1), 8));
        run.pass(300, 0.0, 50);
        assert_eq!((run.policy.max_discovered(), run.policy.period_factor()), (None, 1));
    }

    #[test]
    fn rows_help_against_memory_in_the_kernel_and_then_processes() {
        let mut run = Run::new();
        (run.reading.kernel_bytes, run.reading.discovered) = (65 << 20, 8);
        run.pass(11, 0.0, 50);
        let limit = |most| Change::Shed(Step::LimitDiscovered { most });
        assert_eq!(run.changes, [(1, Change::Shed(Step::DropIdleRows)), (11, limit(4))]);
        // Below the cap is not clear of it: what comes back may take as much again.
        run.reading.kernel_bytes = 60 << 20;
        run.pass(300, 0.0, 50);
        assert_eq!((run.changes.len(), run.policy.state()), (2, State::Shedding));
        run.reading.kernel_bytes = 40 << 20;
        run.pass(100, 0.0, 50);
        assert_eq!(run.policy.state(), State::Within);
    }

    #[test]
    fn settings_change_while_something_is_given_up() {
        let mut run = Run::new();
        run.pass(52, 1.0, 50);
        assert_eq!(run.policy.period_factor(), 8);
        let (mut caps, sample_hz) = (CAPS, 49);
        caps.cpu_share = 1.0;
        run.policy.set(Settings {
            caps,
            sample_hz,
            recover_after: Duration::from_secs(5),
            ..SETTINGS
        });
        // A quarter of 49 is the least rate that is not below the floor.
        assert_eq!(run.policy.period_factor(), 4);
        run.pass(40, 0.3, 50);
        assert_eq!((run.policy.period_factor(), run.policy.state()), (1, State::Within));
    }

    #[test]
    fn what_nothing_helps_against_is_said() {
        let mut run = Run::new();
        run.reading.kernel_bytes = 65 << 20;
        run.pass(60, 0.0, 50);
        let dropped = Change::Shed(Step::DropIdleRows);
        assert_eq!(
            (&run.changes[..], run.policy.state()),
            (&[(1, dropped)][..], State::Exhausted)
        );
        run.reading.kernel_bytes = 40 << 20;
        run.pass(1, 0.0, 50);
        assert_eq!(run.policy.state(), State::Shedding);
        run.pass(30, 0.0, 50);
        assert_eq!(run.policy.state(), State::Within);
    }
}

//! Holds the daemon to what it may cost: a thread that reads the cost once a second, decides by [`policy`], and has the
//! sampling loop and the naming of windows give something up. It logs each change once.
//!
//! In: the process's own figures and those of its programs. Out: commands, and a [`Report`] for the status.

pub mod policy;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

use self::policy::{Caps, Change, Policy, Reading, Settings, State, Step};
use crate::{
    command::{Command, EngineHandle},
    health::{Health, OwnCost},
    kernel::{CostReader, KernelCost},
};

/// Longest time between two readings, and the number of them at least over which CPU is averaged.
const INTERVAL: Duration = Duration::from_secs(1);
const READINGS: u32 = 4;
/// Least time between two sums of all descriptors unless CPU is averaged over less, and its least multiple of what the last
/// took.
const SUM_INTERVAL: Duration = Duration::from_secs(10);
const SUM_RATIO: u32 = 1000;

/// Each mapped object keeps a descriptor open until its last window is named, and shells give out 1024.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Where the daemon stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The state, and since when.
    pub state: State,
    /// When it began.
    pub since: Option<SystemTime>,
    /// Why it is not [`State::Within`].
    pub reason: String,
    /// What is given up.
    pub shed: Vec<String>,
    /// Steps taken, and taken back.
    pub sheddings: u64,
    /// Steps taken back.
    pub recoveries: u64,
    /// Share of the host over the last seconds.
    pub cpu_share: f64,
    /// Anonymous and shared resident memory.
    pub memory_bytes: u64,
    /// The caps; none where nothing is sampled.
    pub caps: Option<Caps>,
    /// What the programs cost.
    pub kernel: KernelCost,
}

/// What is given up, for those who hear of it when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// Whether anything is.
    pub state: State,
    /// Why.
    pub reason: String,
    /// What.
    pub shed: Vec<String>,
}

impl From<&profiler_config::Config> for Settings {
    fn from(config: &profiler_config::Config) -> Self {
        let budget = &config.budget;
        Self {
            caps: Caps {
                cpu_share: f64::from(budget.max_cpu_percent.get()) / 100.0,
                memory_bytes: budget.max_memory_bytes,
                kernel_bytes: budget.max_kernel_bytes,
            },
            averaged_over: budget.averaged_over,
            recover_after: budget.recover_after,
            sample_hz: config.sampling.hz.get(),
        }
    }
}

/// What is given up to keep within the caps on the daemon's own cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restraint {
    /// What a sample stands for, as a multiple of the configured period.
    pub period_factor: u32,
    /// Unwind rows that no watched process uses are not kept for later.
    pub drops_idle_rows: bool,
    /// Most discovered processes that are watched.
    pub max_discovered: Option<u32>,
    /// Why those beyond that are not.
    pub reason: String,
}

impl Default for Restraint {
    fn default() -> Self {
        Self {
            period_factor: 1,
            drops_idle_rows: false,
            max_discovered: None,
            reason: String::new(),
        }
    }
}

/// Where the report is put, and what other threads are asked to do without.
#[derive(Debug, Default)]
pub struct Board {
    report: Mutex<Report>,
    strain: watch::Sender<Strain>,
    changed: Mutex<Option<Settings>>,
    small_caches: AtomicBool,
    discovered: AtomicU32,
    asked_for_ns: AtomicU64,
}

impl Board {
    /// The last report.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is given up, now and whenever that changes. Costs that only vary are no news.
    pub fn subscribe(&self) -> watch::Receiver<Strain> {
        self.strain.subscribe()
    }

    /// Puts another report.
    pub fn put(&self, report: Report) {
        self.strain.send_if_modified(|told| {
            let is_news = (told.state, &told.shed) != (report.state, &report.shed);
            if is_news {
                *told = Strain {
                    state: report.state,
                    reason: report.reason.clone(),
                    shed: report.shed.clone(),
                };
            }
            is_news
        });
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Has the daemon held to other settings from now on.
    pub fn change(&self, settings: Settings) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
    }

    fn take_change(&self) -> Option<Settings> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes how many processes are watched that nobody asked for.
    pub fn set_discovered(&self, discovered: u32) {
        self.discovered.store(discovered, Ordering::Relaxed);
    }

    /// Notes CPU time spent on what somebody asked for and which has a bound of its own: giving up samples would not spare it.
    pub fn note_asked_for(&self, spent: Duration) {
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.asked_for_ns.fetch_add(spent, Ordering::Relaxed);
    }

    fn asked_for(&self) -> Duration {
        Duration::from_nanos(self.asked_for_ns.load(Ordering::Relaxed))
    }

    /// Has caches be small from now on, or of their configured size.
    pub(crate) fn set_small_caches(&self, are_small: bool) {
        self.small_caches.store(are_small, Ordering::Relaxed);
    }

    /// Whether caches are to be small.
    pub fn wants_small_caches(&self) -> bool {
        self.small_caches.load(Ordering::Relaxed)
    }
}

/// Holds the daemon to its caps.
#[derive(Debug)]
pub struct Keeper {
    /// What it may cost.
    pub settings: Settings,
    /// Reads the cost of the programs.
    pub costs: CostReader,
    /// The sampling loop.
    pub engine: EngineHandle,
    /// Where the report goes.
    pub health: Arc<Health>,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

impl Keeper {
    /// Works until it is told to stop. `proc_root` is where procfs is mounted.
    pub fn run(self, proc_root: &Path) {
        let start = Instant::now();
        let cpus = thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let mut policy = Policy::new(self.settings, cpus);
        let mut report = Report {
            caps: Some(self.settings.caps),
            since: Some(SystemTime::now()),
            ..Report::default()
        };
        let (mut memory_due, mut has_own, mut told) = (start, true, Restraint::default());
        let mut span = self.settings.averaged_over;
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            if let Some(settings) = self.health.budget.take_change() {
                policy.set(settings);
                (report.caps, span) = (Some(settings.caps), settings.averaged_over);
                memory_due = now;
            }
            let time = self.costs.time();
            report.kernel = KernelCost {
                bytes: report.kernel.bytes,
                bytes_per_cpu: report.kernel.bytes_per_cpu,
                ..time
            };
            if now >= memory_due {
                (report.kernel.bytes, report.kernel.bytes_per_cpu) = self.costs.memory();
                memory_due = now + SUM_INTERVAL.min(span).max(now.elapsed() * SUM_RATIO);
            }
            match OwnCost::read(proc_root) {
                Ok(own) => {
                    has_own = true;
                    report.memory_bytes = own.resident_anon_bytes.saturating_add(own.resident_shmem_bytes);
                    let reading = Reading {
                        at: start.elapsed(),
                        cpu: own.cpu.saturating_sub(self.health.budget.asked_for()) + report.kernel.time,
                        memory_bytes: report.memory_bytes,
                        kernel_bytes: report.kernel.bytes,
                        discovered: self.health.budget.discovered.load(Ordering::Relaxed),
                    };
                    self.follow(&mut policy, reading, &mut report);
                }
                Err(error) if has_own => {
                    has_own = false;
                    tracing::warn!(%error, "the daemon's own cost is not known, its caps are not enforced");
                }
                Err(_) => {}
            }
            // Asked for until the loop has room for it.
            let wanted = restraint(&policy, &told);
            if wanted != told && self.engine.tell(Command::Restrain(wanted.clone())).is_ok() {
                told = wanted;
            }
            self.health.budget.put(report.clone());
            thread::park_timeout(INTERVAL.min(span / READINGS));
        }
    }

    fn follow(&self, policy: &mut Policy, reading: Reading, report: &mut Report) {
        let change = policy.on_reading(reading);
        report.cpu_share = policy.cpu_share();
        match change {
            Some(Change::Shed(step)) => {
                report.sheddings += 1;
                self.note_caches(step, true);
                tracing::warn!(reason = policy.reason(), shed = %policy.shed().join(", "), "over budget: gives something up");
            }
            Some(Change::Recover(step)) => {
                report.recoveries += 1;
                self.note_caches(step, false);
                tracing::info!(still_shed = %policy.shed().join(", "), "clear of the budget: takes something back");
            }
            None => {}
        }
        if policy.state() != report.state {
            if policy.state() == State::Exhausted {
                tracing::error!(reason = policy.reason(), "over budget, and nothing is left to give up");
            }
            report.state = policy.state();
            report.since = Some(SystemTime::now());
        }
        policy.reason().clone_into(&mut report.reason);
        report.shed = policy.shed();
    }

    fn note_caches(&self, step: Step, is_shed: bool) {
        if step == Step::DropCaches {
            self.health.budget.set_small_caches(is_shed);
        }
    }
}

/// What the sampling loop is to do without.
fn restraint(policy: &Policy, told: &Restraint) -> Restraint {
    let max_discovered = policy.max_discovered();
    let reason = match max_discovered {
        None => String::new(),
        // What was said of those left out stays true of them.
        Some(_) if told.max_discovered == max_discovered => told.reason.clone(),
        Some(most) => format!(
            "left out to keep within the budget, which has room for the {most} most sampled: {}",
            policy.reason()
        ),
    };
    Restraint {
        period_factor: policy.period_factor(),
        drops_idle_rows: policy.has_taken(Step::DropIdleRows),
        max_discovered,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_news_and_costs_that_only_vary_are_none() {
        let board = Board::default();
        let mut strain = board.subscribe();
        let mut report = Report {
            cpu_share: 0.01,
            ..Report::default()
        };
        board.put(report.clone());
        assert!(!strain.has_changed().unwrap());
        report.state = State::Shedding;
        report.shed = vec!["half of it".to_owned()];
        report.reason = "too much".to_owned();
        board.put(report.clone());
        assert!(strain.has_changed().unwrap());
        assert_eq!(strain.borrow_and_update().reason, "too much");
        report.cpu_share = 0.02;
        report.reason = "still too much".to_owned();
        board.put(report.clone());
        assert!(!strain.has_changed().unwrap());
        report.shed.push("the other half".to_owned());
        board.put(report.clone());
        assert_eq!(strain.borrow_and_update().shed, report.shed);
        board.put(Report::default());
        assert_eq!(*strain.borrow_and_update(), Strain::default());
        assert_eq!(board.report(), Report::default());
    }
}

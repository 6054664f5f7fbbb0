//! A host with an engine, on clocks of its own, and what may happen to both.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use profiler_alerts::{AlertId, Comparison};
use profiler_hooks::{
    AllowList, Answer, Boot, Cause, Change, Engine, Hook, Identity, Kind, Order, Outcome, Process, Refusal, Run, RunId,
    Settings, Stage, Target, TargetId, Watched,
};
use profiler_readings::{Metric, Moment, Subject};

/// What the niceness of a process is until somebody sets it, and what the hook sets it to.
pub(crate) const PLAIN: &str = "0";
pub(crate) const OURS: &str = "10";
/// A time after which everything has come to its end: runs, settings, and attempts to put them back.
pub(crate) const LONG: u64 = 7200;

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A hook that may act on the processes of the host, and measures within a minute.
pub(crate) fn hook(name: &str, kind: Kind) -> Hook {
    Hook {
        name: name.into(),
        kind,
        enforce: true,
        allow: AllowList {
            units: vec!["web*".to_owned()],
            ..AllowList::default()
        },
        allow_disruptive: false,
        timeout: seconds(10),
        settle: seconds(5),
        measure: seconds(30),
        cooldown: seconds(60),
        lasts: seconds(300),
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        enforce: true,
        ..Settings::default()
    }
}

pub(crate) fn process(pid: u32) -> Process {
    Process {
        identity: Identity {
            pid,
            start_ticks: u64::from(pid) * 100,
        },
        uids: [1000; 4],
        executable: b"/srv/web/server".to_vec(),
        name: "server".into(),
        unit: Some("web.service".into()),
        is_kernel_thread: false,
        caught_signals: 0,
    }
}

pub(crate) fn watched(subject: Subject) -> Watched {
    Watched {
        metric: Metric::HostMemoryUsed,
        subject,
        wrong: Comparison::Above,
    }
}

pub(crate) fn firing(alert: u64) -> Cause {
    firing_about(alert, Subject::Host)
}

pub(crate) fn firing_about(alert: u64, subject: Subject) -> Cause {
    Cause::Alert {
        alert: AlertId(alert),
        limit: "host_memory".to_owned(),
        watched: watched(subject),
    }
}

pub(crate) fn request(dry_run: bool) -> Cause {
    Cause::Request {
        uid: 1000,
        dry_run,
        about: Subject::Host,
        watched: None,
    }
}

/// Something that was done to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) run: RunId,
    pub(crate) target: TargetId,
    pub(crate) second: u64,
}

/// The host. What is here stays when the daemon dies.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    pub(crate) hooks: Vec<Arc<Hook>>,
    pub(crate) seconds: u64,
    boot: u128,
    /// In which of the seconds it was started.
    booted: u64,
    /// Runs as they were last kept.
    pub(crate) kept: BTreeMap<RunId, Run>,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) niceness: BTreeMap<Identity, String>,
    pub(crate) deeds: Vec<Deed>,
    /// The watched reading as it is while nothing was done, and after anything was.
    pub(crate) readings: (f64, f64),
    /// The order of this stage is not answered, or answered with a failure; `Undo` means to put back.
    pub(crate) hangs_at: Option<Stage>,
    pub(crate) fails_at: Option<Stage>,
    /// The disk is full when a run at this stage is to be kept.
    pub(crate) not_kept_at: Option<Stage>,
    /// The process with this id is replaced by another when this stage is ordered.
    pub(crate) reused_at: Option<(Stage, u32)>,
    /// The daemon dies after so many more orders.
    pub(crate) dies_after: Option<usize>,
    /// The next daemon dies after so many.
    pub(crate) dies_at_start: Option<usize>,
    pub(crate) is_dead: bool,
    queue: VecDeque<Order>,
    pub(crate) not_kept: BTreeSet<RunId>,
    /// Targets that were got hold of, and what will be changed.
    pub(crate) held: BTreeMap<RunId, (Target, Vec<Change>)>,
    pub(crate) withdrawn: BTreeSet<RunId>,
}

impl World {
    /// With processes 100 and 101 and these hooks.
    pub(crate) fn new(hooks: &[Hook]) -> Self {
        let boot = 1;
        let mut world = Self {
            engine: Engine::new(settings(), Boot(boot)),
            settings: settings(),
            hooks: hooks.iter().cloned().map(Arc::new).collect(),
            seconds: 1000,
            boot,
            booted: 0,
            kept: BTreeMap::new(),
            processes: [100, 101].map(|pid| (pid, process(pid))).into(),
            niceness: BTreeMap::new(),
            deeds: Vec::new(),
            readings: (100.0, 50.0),
            hangs_at: None,
            fails_at: None,
            not_kept_at: None,
            reused_at: None,
            dies_after: None,
            dies_at_start: None,
            is_dead: false,
            queue: VecDeque::new(),
            not_kept: BTreeSet::new(),
            held: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
        };
        world.configure();
        world
    }

    pub(crate) fn configure(&mut self) {
        self.engine.configure(self.settings, self.hooks.iter().cloned());
        self.engine.set_ourselves([20, 21]);
    }

    pub(crate) fn now(&self) -> Moment {
        Moment {
            time: UNIX_EPOCH + seconds(1_800_000_000 + self.seconds),
            since_boot: seconds(self.seconds - self.booted),
        }
    }

    /// Proposes a run and carries out what is ordered.
    pub(crate) fn propose(&mut self, hook: &str, cause: Cause) -> Result<RunId, Refusal> {
        let now = self.now();
        self.order(|engine, orders| engine.propose(hook, cause, now, orders))
    }

    pub(crate) fn alert_over(&mut self, alert: u64) {
        let now = self.now();
        self.order(|engine, orders| engine.alert_over(AlertId(alert), now, orders));
    }

    pub(crate) fn stop(&mut self) {
        let now = self.now();
        self.order(|engine, orders| engine.stop(now, orders));
    }

    /// Has the engine take an answer that was made up. What it orders is not carried out.
    pub(crate) fn answer_with(&mut self, run: RunId, answer: Answer) -> Vec<Order> {
        let (now, mut orders) = (self.now(), Vec::new());
        self.engine.answer(run, answer, now, &mut orders);
        orders
    }

    /// Lets so many seconds pass.
    pub(crate) fn pass(&mut self, count: u64) {
        for _ in 0..count {
            self.seconds += 1;
            let now = self.now();
            self.order(|engine, orders| engine.advance(now, orders));
        }
    }

    /// The next daemon starts, with what the one before kept.
    pub(crate) fn restart(&mut self) {
        self.queue.clear();
        self.held.clear();
        self.not_kept.clear();
        self.withdrawn.clear();
        (self.is_dead, self.dies_after) = (false, self.dies_at_start.take());
        self.engine = Engine::new(self.settings, Boot(self.boot));
        self.configure();
        let (now, runs) = (self.now(), self.kept.values().cloned().collect());
        self.order(|engine, orders| engine.restore(runs, now, orders));
    }

    /// The host is started again, and the daemon is not yet: nothing is set any more, though processes may have the same ids.
    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
        self.booted = self.seconds;
        self.niceness.clear();
    }

    fn order<T>(&mut self, decide: impl FnOnce(&mut Engine, &mut Vec<Order>) -> T) -> T {
        let mut orders = Vec::new();
        let decided = decide(&mut self.engine, &mut orders);
        self.queue.extend(orders);
        self.carry_out_all();
        decided
    }

    fn carry_out_all(&mut self) {
        while !self.is_dead {
            if let Some(left) = &mut self.dies_after {
                if *left == 0 {
                    self.is_dead = true;
                    return;
                }
                *left -= 1;
            }
            let Some(order) = self.queue.pop_front() else {
                // Nothing was carried out by this.
                self.dies_after = self.dies_after.map(|left| left + 1);
                return;
            };
            let run = order.run();
            if let Some(answer) = self.carry_out(order) {
                let (now, mut orders) = (self.now(), Vec::new());
                self.engine.answer(run, answer, now, &mut orders);
                self.queue.extend(orders);
            }
        }
    }

    /// A run as it was last kept.
    pub(crate) fn run(&self, id: RunId) -> &Run {
        self.kept.get(&id).expect("it is kept")
    }

    pub(crate) fn outcome(&self, id: RunId) -> &Outcome {
        self.run(id).outcome().expect("it is over")
    }

    /// The stages of a run as they were recorded.
    pub(crate) fn stages(&self, id: RunId) -> Vec<Stage> {
        self.run(id).steps.iter().map(|step| step.stage).collect()
    }

    /// What must hold once nothing is under way any more.
    pub(crate) fn assert_settled(&self) {
        assert!(self.engine.current().is_none() && self.engine.waiting().next().is_none());
        assert!(self.engine.owed().next().is_none());
        for run in self.kept.values() {
            assert!(run.outcome().is_some(), "{run:?}");
            assert!(!run.undo.is_owed(), "{run:?}");
        }
        for (identity, value) in &self.niceness {
            assert_ne!(value, OURS, "{identity:?} is still as we set it");
        }
    }
}

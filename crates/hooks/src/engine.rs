//! The engine: which hook runs when, on whom, and what comes next.
//!
//! It decides and does nothing: what is to be done goes out as [`Order`]s, what came of it comes back as [`Answer`]s, and
//! time passes by [`Engine::advance`].

mod firings;
mod message;
mod restart;
mod steps;
mod undoing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use profiler_alerts::AlertId;
use profiler_readings::Moment;

pub use self::message::{Answer, Order};
use self::{firings::Firings, undoing::Owed};
use crate::{Boot, Cause, Hook, Outcome, Refusal, Run, RunId, Stage, pace::Pace};

/// How hooks run, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The global switch: without it, no hook does what it would do.
    pub enforce: bool,
    /// Runs in any span of [`Self::per`], of all hooks together.
    pub max_runs: usize,
    /// That span.
    pub per: Duration,
    /// Runs that wait for their turn; more are refused.
    pub max_waiting: usize,
    /// For how long a run waits for its turn.
    pub wait_at_most: Duration,
    /// For how long an order may go unanswered, beyond the time that the hook itself may take.
    pub answer_within: Duration,
    /// Part of a reading of the host that somebody has to contribute to be acted on.
    pub min_share: f64,
    /// Runs whose settings are not put back yet; more are refused.
    pub max_owed: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enforce: false,
            max_runs: 20,
            per: Duration::from_secs(3600),
            max_waiting: 16,
            wait_at_most: Duration::from_secs(600),
            answer_within: Duration::from_secs(30),
            min_share: 0.05,
            max_owed: 64,
        }
    }
}

/// Who paused hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PausedBy {
    /// A file that is there.
    File,
    /// Somebody who asked for it.
    Request,
}

/// The run that has its turn.
#[derive(Debug)]
struct Current {
    run: Run,
    /// The hook as it was when the run began.
    hook: Arc<Hook>,
    /// When the stage is over: an answer is late, or what was done has had its effect.
    due: Duration,
}

/// Runs hooks, one at a time.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    boot: Boot,
    hooks: BTreeMap<Arc<str>, Arc<Hook>>,
    /// Processes of the profiler, and their ancestors.
    ourselves: BTreeSet<u32>,
    paused: BTreeMap<PausedBy, String>,
    is_stopping: bool,
    waiting: VecDeque<Run>,
    current: Option<Current>,
    owed: BTreeMap<RunId, Owed>,
    pace: Pace,
    firings: Firings,
    last: RunId,
    outcomes: BTreeMap<&'static str, u64>,
    unexpected: u64,
}

impl Engine {
    /// Without hooks.
    pub fn new(settings: Settings, boot: Boot) -> Self {
        Self {
            settings,
            boot,
            hooks: BTreeMap::new(),
            ourselves: BTreeSet::new(),
            paused: BTreeMap::new(),
            is_stopping: false,
            waiting: VecDeque::new(),
            current: None,
            owed: BTreeMap::new(),
            pace: Pace::default(),
            firings: Firings::default(),
            last: RunId(0),
            outcomes: BTreeMap::new(),
            unexpected: 0,
        }
    }

    /// These hooks are in force from now on, in this way. A run that has done nothing yet is refused if its hook changed;
    /// one that has done something goes on as it began.
    pub fn configure(&mut self, settings: Settings, hooks: impl IntoIterator<Item = Arc<Hook>>) {
        self.settings = settings;
        self.hooks = hooks.into_iter().map(|hook| (Arc::clone(&hook.name), hook)).collect();
        let hooks = &self.hooks;
        self.pace.keep_hooks(|name| hooks.contains_key(name));
    }

    /// These processes are the profiler's own, and their ancestors: nothing is ever done to them.
    pub fn set_ourselves(&mut self, pids: impl IntoIterator<Item = u32>) {
        self.ourselves = pids.into_iter().collect();
    }

    /// Pauses hooks, with who or what did so; or goes on, without. Nothing is begun while they are paused, and nothing done
    /// that was begun; what was done before is measured, and put back.
    pub fn pause(&mut self, by: PausedBy, who: Option<String>) {
        match who {
            Some(who) => self.paused.insert(by, who),
            None => self.paused.remove(&by),
        };
    }

    /// Proposes a run of a hook. It waits for its turn, and is whatever comes of it from then on.
    ///
    /// # Errors
    /// It is not even a run: there is no such hook, or it had its turn for this alert.
    pub fn propose(
        &mut self,
        hook: &str,
        cause: Cause,
        now: Moment,
        orders: &mut Vec<Order>,
    ) -> Result<RunId, Refusal> {
        let hook = Arc::clone(self.hooks.get(hook).ok_or(Refusal::UnknownHook)?);
        if let Some(alert) = cause.alert() {
            self.firings.take(&hook.name, alert)?;
        }
        let id = self.next_id(now);
        let run = Run::new(id, &hook.name, hook.kind, cause, self.boot, now);
        if self.is_stopping {
            let during = Stage::Proposed;
            self.end_waiting(run, Outcome::Interrupted { during }, now, orders);
        } else if self.waiting.len() >= self.settings.max_waiting {
            self.end_waiting(run, Outcome::Refused(Refusal::TooManyWait), now, orders);
        } else {
            orders.push(Order::Keep(Box::new(run.clone())));
            self.waiting.push_back(run);
        }
        Ok(id)
    }

    /// An alert is over: runs for it that have done nothing yet end.
    pub fn alert_over(&mut self, alert: AlertId, now: Moment, orders: &mut Vec<Order>) {
        self.firings.end(alert);
        let (over, waiting): (VecDeque<Run>, VecDeque<Run>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|run| run.cause.alert() == Some(alert));
        self.waiting = waiting;
        for run in over {
            self.end_waiting(run, Outcome::Refused(Refusal::AlertOver), now, orders);
        }
        let is_meant =
            |current: &mut Current| current.run.cause.alert() == Some(alert) && current.run.stage() < Stage::Apply;
        if let Some(current) = self.current.take_if(is_meant) {
            self.finish(current, Outcome::Refused(Refusal::AlertOver), now, orders);
        }
    }

    /// Lets time pass: ends what takes too long, puts back what has lasted long enough, and begins the next run if none has
    /// its turn. To be called once a second or so.
    pub fn advance(&mut self, now: Moment, orders: &mut Vec<Order>) {
        if let Some(current) = self.current.take_if(|current| current.has_lasted(now)) {
            self.finish(current, Outcome::Kept, now, orders);
        }
        self.put_back_due(now, orders);
        self.refuse_late(now, orders);
        if let Some(current) = self.current.take_if(|current| current.due <= now.since_boot) {
            self.go_on(current, now, orders);
        }
        while self.current.is_none() && !self.is_stopping {
            let Some(run) = self.waiting.pop_front() else { return };
            self.begin(run, now, orders);
        }
    }

    /// Takes what came of an order. What nobody waits for any more is counted and left.
    pub fn answer(&mut self, run: RunId, answer: Answer, now: Moment, orders: &mut Vec<Order>) {
        if self.owed.contains_key(&run) {
            self.settle_owed(run, &answer, now, orders);
            return;
        }
        match self.current.take_if(|current| current.run.id == run) {
            Some(current) => self.take_answer(current, answer, now, orders),
            None => self.unexpected += 1,
        }
    }

    /// Ends what can be ended and has settings put back, because the daemon stops. Answers are still taken afterwards.
    pub fn stop(&mut self, now: Moment, orders: &mut Vec<Order>) {
        self.is_stopping = true;
        for run in std::mem::take(&mut self.waiting) {
            let during = Stage::Proposed;
            self.end_waiting(run, Outcome::Interrupted { during }, now, orders);
        }
        if let Some(current) = self.current.take() {
            let during = current.run.stage();
            if during > Stage::Apply && !current.run.undo.is_owed() {
                // It is done, and what it changed can be measured by the next daemon.
                self.current = Some(current);
            } else {
                self.finish(current, Outcome::Interrupted { during }, now, orders);
            }
        }
        self.put_back_all(now, orders);
    }

    /// Whether a run of a hook may begin now, were it its turn.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self, hook: &str, now: Moment) -> Result<(), Refusal> {
        if !self.hooks.contains_key(hook) {
            return Err(Refusal::UnknownHook);
        }
        if let Some(by) = self.paused.values().next() {
            return Err(Refusal::Paused { by: by.clone() });
        }
        self.pace.may_begin(hook, &self.settings, now.since_boot)
    }

    /// The hooks in force, by name.
    pub fn hooks(&self) -> impl Iterator<Item = &Arc<Hook>> {
        self.hooks.values()
    }

    /// The run that has its turn.
    pub fn current(&self) -> Option<&Run> {
        self.current.as_ref().map(|current| &current.run)
    }

    /// Runs that wait for their turn, the next first.
    pub fn waiting(&self) -> impl Iterator<Item = &Run> {
        self.waiting.iter()
    }

    /// Runs that are over and whose settings are not put back yet.
    pub fn owed(&self) -> impl Iterator<Item = &Run> {
        self.owed.values().map(|owed| &owed.run)
    }

    /// How many runs ended how, since the start, by [`Outcome::name`].
    pub fn outcomes(&self) -> &BTreeMap<&'static str, u64> {
        &self.outcomes
    }

    /// Answers that nobody waited for any more, since the start.
    pub fn unexpected(&self) -> u64 {
        self.unexpected
    }

    /// An id that is greater than all before, also after a restart, and close to the time of day in nanoseconds.
    fn next_id(&mut self, now: Moment) -> RunId {
        let since_epoch = now.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        self.last = RunId(nanoseconds.max(self.last.0.saturating_add(1)));
        self.last
    }

    /// Ends runs that wait for longer than they may.
    fn refuse_late(&mut self, now: Moment, orders: &mut Vec<Order>) {
        let oldest = now.since_boot.saturating_sub(self.settings.wait_at_most);
        let is_late = |run: &Run| run.began().is_some_and(|began| began.since_boot < oldest);
        while let Some(run) = self.waiting.pop_front() {
            if !is_late(&run) {
                self.waiting.push_front(run);
                return;
            }
            self.end_waiting(run, Outcome::Refused(Refusal::WaitedTooLong), now, orders);
        }
    }

    /// Ends a run that never had its turn.
    fn end_waiting(&mut self, mut run: Run, outcome: Outcome, now: Moment, orders: &mut Vec<Order>) {
        *self.outcomes.entry(outcome.name()).or_default() += 1;
        run.end(outcome, now);
        orders.push(Order::Keep(Box::new(run)));
    }
}

/// A moment so much later.
fn later(now: Moment, by: Duration) -> Moment {
    Moment {
        time: now.time.checked_add(by).unwrap_or(now.time),
        since_boot: now.since_boot.saturating_add(by),
    }
}

//! The one owner of alerts: it evaluates, keeps what changed, and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use profiler_alerts::{
    Alert, AlertId, Evaluator, Limit, Moment, Phase, Settings, Silence, SilenceId, Stored, Transition,
};
use profiler_readings::{Metric, Source};
use profiler_store::state::{AlertQuery, Bounds, State, StateError};
use tokio::sync::broadcast;

use super::{
    AlertingParts,
    command::{Command, LimitInForce, ShownAlert, ShownChange, SilenceError},
    observe, report,
};
use crate::{
    health::{Health, Part, PartState},
    readings::Board,
};

/// Time between two times that all live alerts are kept, changed or not: what a pending one has behind it is not lost.
const KEEP_ALL: Duration = Duration::from_secs(60);

/// The owner of alerts.
#[derive(Debug)]
pub(super) struct Keeper {
    evaluator: Evaluator,
    metrics: BTreeSet<Metric>,
    state: State,
    board: Arc<Board>,
    health: Arc<Health>,
    changes: broadcast::Sender<ShownChange>,
    keep_all_due: Duration,
}

impl Keeper {
    pub(super) fn new(
        parts: AlertingParts,
        bounds: Bounds,
        changes: broadcast::Sender<ShownChange>,
        now: Moment,
    ) -> Result<Self, StateError> {
        let mut state = State::open(&parts.state_dir, bounds)?;
        let mut evaluator = Evaluator::new(Settings::default());
        let metrics = observe::metrics_of(parts.limits.iter().map(AsRef::as_ref));
        // Nothing is live yet that could change.
        let _none = evaluator.set_limits(parts.limits, now);
        for silence in state.silences(now.time)? {
            if let Err(error) = evaluator.add_silence(silence, now) {
                tracing::warn!(%error, "a silence that was kept does not hold any more");
            }
        }
        let live = state.live()?;
        let ended = evaluator.restore(live, now);
        let mut keeper = Self {
            evaluator,
            metrics,
            state,
            board: parts.board,
            health: parts.health,
            changes,
            keep_all_due: now.since_boot + KEEP_ALL,
        };
        keeper.take(ended, now);
        report(&keeper.health, keeper.state.condition());
        Ok(keeper)
    }

    /// Holds the newest readings against the limits.
    pub(super) fn evaluate(&mut self, now: Moment) {
        let health = &self.health;
        let fails = |source: Source| matches!(health.state(Part::ReadingsOf(source)), Some(PartState::Failed { .. }));
        let observations = observe::observe(&self.board.series(), &self.metrics, now.since_boot, fails);
        let transitions = self.evaluator.evaluate(&observations, now);
        self.take(transitions, now);
        if now.since_boot >= self.keep_all_due {
            self.keep_all_due = now.since_boot + KEEP_ALL;
            let live = self.evaluator.save(now.time);
            self.keep(&live, now);
        }
    }

    /// Keeps what is live, for the daemon after this one.
    pub(super) fn end(&mut self, now: Moment) {
        let live = self.evaluator.save(now.time);
        self.keep(&live, now);
    }

    /// What comes of changes: they are kept, and told.
    fn take(&mut self, transitions: Vec<Transition>, now: Moment) {
        if transitions.is_empty() {
            return;
        }
        let changed: Vec<Stored> = transitions.iter().map(|transition| transition.stored.clone()).collect();
        self.keep(&changed, now);
        for Transition { change, stored, .. } in transitions {
            let shown = self.show(stored.alert);
            // Nobody may be watching.
            let _watchers = self.changes.send(ShownChange { change, shown });
        }
    }

    fn keep(&mut self, alerts: &[Stored], now: Moment) {
        if let Err(error) = self.state.record(alerts, now.time) {
            tracing::debug!(%error, "alerts could not be written");
        }
        report(&self.health, self.state.condition());
    }

    /// Answers. An asker who left is none.
    pub(super) fn answer(&mut self, command: Command, now: Moment) {
        match command {
            Command::Limits { reply } => drop(reply.send(self.limits())),
            Command::List { query, reply } => drop(reply.send(self.list(&query))),
            Command::Get { id, reply } => drop(reply.send(self.get(id))),
            Command::Silences { reply } => drop(reply.send(self.evaluator.silences().cloned().collect())),
            Command::Silence {
                matchers,
                duration,
                who,
                comment,
                reply,
            } => {
                let silence = Silence {
                    id: SilenceId(0),
                    matchers,
                    made: now.time,
                    until: now.time + duration,
                    who,
                    comment,
                };
                drop(reply.send(self.silence(silence, now)));
            }
            Command::Unsilence { id, reply } => drop(reply.send(self.unsilence(id))),
            Command::SetLimits(limits) => {
                self.metrics = observe::metrics_of(limits.iter().map(AsRef::as_ref));
                let ended = self.evaluator.set_limits(limits, now);
                self.take(ended, now);
            }
        }
    }

    fn limits(&self) -> Vec<LimitInForce> {
        let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        for alert in self.evaluator.alerts() {
            let (pending, firing) = counts.entry(&alert.limit.name).or_default();
            match alert.phase {
                Phase::Firing { .. } => *firing += 1,
                _ => *pending += 1,
            }
        }
        let in_force = self.evaluator.limits().map(|limit: &Arc<Limit>| {
            let (pending, firing) = counts.get(limit.name.as_str()).copied().unwrap_or_default();
            LimitInForce {
                limit: Arc::clone(limit),
                pending,
                firing,
            }
        });
        in_force.collect()
    }

    /// Live alerts with their newest values, then those that are over.
    fn list(&self, query: &AlertQuery) -> Result<Vec<ShownAlert>, StateError> {
        let kept = self.state.alerts(query)?;
        Ok(kept.into_iter().map(|alert| self.show(self.newest(alert))).collect())
    }

    fn get(&self, id: AlertId) -> Result<Option<ShownAlert>, StateError> {
        let kept = self.state.alert(id)?;
        Ok(kept.map(|alert| self.show(self.newest(alert))))
    }

    /// What is kept of a live alert may be up to a minute old.
    fn newest(&self, kept: Alert) -> Alert {
        let live = self.evaluator.alerts().find(|alert| alert.id == kept.id);
        live.cloned().unwrap_or(kept)
    }

    fn show(&self, alert: Alert) -> ShownAlert {
        ShownAlert {
            silenced: !alert.phase.is_over() && self.evaluator.silence_of(&alert).is_some(),
            alert,
        }
    }

    fn silence(&mut self, silence: Silence, now: Moment) -> Result<Silence, SilenceError> {
        silence.check()?;
        let silence = self.state.add_silence(silence)?;
        if let Err(error) = self.evaluator.add_silence(silence.clone(), now) {
            self.state.remove_silence(silence.id)?;
            return Err(error.into());
        }
        Ok(silence)
    }

    fn unsilence(&mut self, id: SilenceId) -> Result<bool, StateError> {
        self.state.remove_silence(id)?;
        Ok(self.evaluator.remove_silence(id))
    }
}

//! The one owner of alerts: it evaluates, keeps what changed, has it told, and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use profiler_alerts::{
    Alert, AlertId, Change, Evaluator, Limit, Moment, Phase, Settings, Silence, SilenceId, Stored, Transition,
};
use profiler_readings::Metric;
use profiler_store::state::{AlertQuery, State, StateError};
use tokio::sync::broadcast;

use super::{
    AlertingParts, StartError, bounds,
    censuses::{self, Censuses, Counted},
    collector::{self, Collector, Finding},
    command::{AlertWithEvidence, Command, LimitInForce, ShownAlert, ShownChange, SilenceError},
    observe, owners,
    quiet::{QuietTimes, led_up, seen_late},
    report,
    teller::Teller,
};
use crate::{
    evidence::{Breach, breach_start, memory::concerns_memory},
    health::{Health, Part, PartState},
    memory::OomKills,
    readings::Board,
};

/// Time between two times that all live alerts are kept, changed or not: what a pending one has behind it is not lost.
const KEEP_ALL: Duration = Duration::from_secs(60);
/// For how long those who are to be told wait for the evidence.
const PATIENCE: Duration = Duration::from_secs(10);

/// An alert that fires and is to be told with its evidence.
#[derive(Debug)]
struct Awaiting {
    stored: Stored,
    until: Duration,
}

/// The owner of alerts.
#[derive(Debug)]
pub(super) struct Keeper {
    evaluator: Evaluator,
    metrics: BTreeSet<Metric>,
    state: State,
    board: Arc<Board>,
    oom_kills: Arc<OomKills>,
    health: Arc<Health>,
    changes: broadcast::Sender<ShownChange>,
    collector: Collector,
    pub(super) quiet_times: QuietTimes,
    censuses: Censuses,
    teller: Teller,
    awaiting: BTreeMap<AlertId, Awaiting>,
    keep_all_due: Duration,
    /// Alerts that have no census, and why, until that is kept with them.
    without_census: Vec<(AlertId, String)>,
}

impl Keeper {
    pub(super) fn new(
        parts: AlertingParts,
        changes: broadcast::Sender<ShownChange>,
        now: Moment,
    ) -> Result<Self, StartError> {
        let mut state = State::open(&parts.state_dir, bounds(&parts.settings))?;
        let mut evaluator = Evaluator::new(Settings::default());
        let metrics = observe::metrics_of(parts.limits.iter().map(AsRef::as_ref));
        // Nothing is live yet that could change.
        let _none = evaluator.set_limits(parts.limits, now);
        // What cannot be read is lost; limits are held against readings all the same.
        let silences = state.silences(now.time).unwrap_or_else(|error| {
            tracing::error!(%error, "silences cannot be read");
            Vec::new()
        });
        for silence in silences {
            if let Err(error) = evaluator.add_silence(silence, now) {
                tracing::warn!(%error, "a silence that was kept does not hold any more");
            }
        }
        let live = state.live().unwrap_or_else(|error| {
            tracing::error!(%error, "alerts of before cannot be read");
            Vec::new()
        });
        let ended = evaluator.restore(live, now);
        let mut keeper = Self {
            evaluator,
            metrics,
            state,
            board: Arc::clone(&parts.sources.board),
            oom_kills: Arc::clone(&parts.sources.oom_kills),
            health: parts.health,
            changes,
            quiet_times: QuietTimes::new(Arc::clone(&parts.sources.store)),
            censuses: Censuses::start(
                parts.sources.census.clone(),
                parts.sources.engine.clone(),
                parts.settings.census_apart,
            )?,
            collector: Collector::start(parts.sources)?,
            teller: Teller::new(parts.dispatcher, parts.host, parts.settings.external_url),
            awaiting: BTreeMap::new(),
            keep_all_due: now.since_boot + KEEP_ALL,
            without_census: Vec::new(),
        };
        keeper.take(ended, now);
        report(&keeper.health, keeper.state.condition());
        Ok(keeper)
    }

    /// Holds the newest readings against the limits.
    pub(super) fn evaluate(&mut self, now: Moment) {
        self.board.put_killed(&self.oom_kills.take(), now);
        let fails = |part| {
            matches!(
                self.health.state(part),
                Some(PartState::Failed { .. } | PartState::Late { .. })
            )
        };
        // Whoever reads everything may be gone himself.
        let all_fail = fails(Part::Readings);
        let live: Vec<_> = self
            .evaluator
            .alerts()
            .map(|alert| (alert.limit.metric, &alert.subject))
            .collect();
        let observations = observe::observe(&self.board.series(), &self.metrics, now.since_boot, &live, |source| {
            all_fail || fails(Part::ReadingsOf(source))
        });
        let transitions = self.evaluator.evaluate(&observations, now);
        self.take(transitions, now);
        self.quiet_times.hold();
        self.take_findings(now);
        self.health.report(Part::Sinks, self.teller.state());
        if now.since_boot >= self.keep_all_due {
            self.keep_all_due = now.since_boot + KEEP_ALL;
            let live = self.evaluator.save(now.time);
            self.keep(&live, now);
        }
    }

    /// Keeps what is live, for the daemon after this one.
    pub(super) fn end(&mut self, now: Moment) {
        for id in self.awaiting.keys().copied().collect::<Vec<_>>() {
            self.tell_awaiting(id, now);
        }
        let live = self.evaluator.save(now.time);
        self.keep(&live, now);
    }

    /// What comes of changes: they are kept, looked into, and told.
    fn take(&mut self, transitions: Vec<Transition>, now: Moment) {
        if transitions.is_empty() {
            return;
        }
        for transition in &transitions {
            let alert = &transition.stored.alert;
            match transition.change {
                Change::Pending => self.quiet_times.begin(alert, now.since_boot),
                Change::Firing => self.look_into(transition, now),
                // What began is told before its end, with evidence or without, and kept before it.
                Change::Resolved => self.tell_awaiting(alert.id, now),
                // It leaves nothing behind.
                Change::Dropped => drop(self.quiet_times.end(alert.id, now.since_boot)),
                Change::Unsilenced => {}
            }
        }
        for Transition { stored, notify, .. } in &transitions {
            if *notify && !self.awaiting.contains_key(&stored.alert.id) {
                let lines = self.lines(stored.alert.id);
                self.tell(&stored.alert, &lines);
            }
        }
        // After that: a daemon that is killed in between tells twice, and not never.
        let changed: Vec<Stored> = transitions.iter().map(|transition| transition.stored.clone()).collect();
        self.keep(&changed, now);
        for firing in transitions.iter().filter(|one| one.change == Change::Firing) {
            owners::keep(&firing.stored.alert, &self.board, &mut self.state, now.time);
        }
        for Transition { change, stored, .. } in transitions {
            let shown = self.show(stored.alert);
            // Nobody may be watching.
            let _watchers = self.changes.send(ShownChange { change, shown });
        }
    }

    /// Has evidence gathered for an alert that begins to fire. Those who are to be told wait for it.
    fn look_into(&mut self, firing: &Transition, now: Moment) {
        let alert = &firing.stored.alert;
        let before = led_up(alert.limit.metric);
        let start = breach_start(alert.began, alert.limit.hold_for, now.time);
        let breach = Breach {
            start: start.checked_sub(before).unwrap_or(start),
            end: now.time,
            seen_late: seen_late(alert.limit.metric),
            subject: alert.subject.clone(),
            metric: alert.limit.metric,
        };
        let metric = alert.limit.metric;
        // Of a process that was killed there is nothing left to count.
        if concerns_memory(metric) && metric != Metric::ProcessOomKilled {
            let begun = self
                .censuses
                .begin(alert.id, &alert.subject, &self.board, now.since_boot);
            self.without_census.extend(begun.err().map(|why| (alert.id, why)));
        }
        let course = self.quiet_times.end(alert.id, now.since_boot);
        if !self.collector.look(alert.id, breach, course) {
            tracing::warn!(alert = %alert.id, "too many alerts began at once: this one has no evidence");
        } else if firing.notify {
            let awaiting = Awaiting {
                stored: firing.stored.clone(),
                until: now.since_boot + PATIENCE,
            };
            self.awaiting.insert(alert.id, awaiting);
        }
    }

    /// Keeps what was found, and tells those who waited for it, or long enough.
    fn take_findings(&mut self, now: Moment) {
        for Finding { id, lines, kept } in self.collector.found().collect::<Vec<_>>() {
            for evidence in kept {
                if let Err(error) = self.state.put_evidence(id, &evidence) {
                    tracing::warn!(alert = %id, %error, "evidence is not kept");
                }
            }
            if let Some(Awaiting { stored, .. }) = self.awaiting.remove(&id) {
                self.tell_first(&stored, &lines, now);
            }
        }
        let without = std::mem::take(&mut self.without_census).into_iter();
        let without = without.map(|(id, why)| (id, censuses::missing(&why)));
        let counted = self.censuses.counted().into_iter();
        let counted = counted.map(|Counted { id, kept, .. }| (id, kept));
        for (id, evidence) in without.chain(counted).collect::<Vec<_>>() {
            if let Err(error) = self.state.put_evidence(id, &evidence) {
                tracing::warn!(alert = %id, %error, "a census is not kept");
            }
        }
        let late = self
            .awaiting
            .iter()
            .filter(|(_, awaiting)| now.since_boot >= awaiting.until);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.tell_awaiting(id, now);
        }
    }

    /// Tells of an alert that waits for its evidence, without it.
    fn tell_awaiting(&mut self, id: AlertId, now: Moment) {
        if let Some(Awaiting { stored, .. }) = self.awaiting.remove(&id) {
            self.tell_first(&stored, &[], now);
        }
    }

    fn tell(&self, alert: &Alert, lines: &[String]) {
        let owner = owners::of(alert, &self.board, &self.state);
        self.teller.tell(alert, owner.as_ref(), lines);
    }

    fn tell_first(&mut self, stored: &Stored, lines: &[String], now: Moment) {
        self.tell(&stored.alert, lines);
        // Only now: a daemon that is killed before it told anybody is to tell after its start.
        self.keep(std::slice::from_ref(stored), now);
    }

    /// What was found about an alert, for whoever is told.
    fn lines(&self, id: AlertId) -> Vec<String> {
        let kept = [collector::LINES, censuses::CENSUS_LINES]
            .into_iter()
            .filter_map(|kind| self.state.evidence(id, kind).ok().flatten());
        let texts = kept.map(|kept| String::from_utf8_lossy(&kept.body).into_owned());
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn keep(&mut self, alerts: &[Stored], now: Moment) {
        let mut alerts = alerts.to_vec();
        for stored in &mut alerts {
            if self.awaiting.contains_key(&stored.alert.id) {
                stored.alert.told = false;
            }
        }
        if let Err(error) = self.state.record(&alerts, now.time) {
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
            Command::Configure { limits, settings } => {
                self.state.set_bounds(bounds(&settings));
                self.censuses.apart = settings.census_apart;
                self.teller.external_url = settings.external_url;
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

    fn list(&self, query: &AlertQuery) -> Result<Vec<ShownAlert>, StateError> {
        let kept = self.state.alerts(query)?;
        Ok(kept.into_iter().map(|alert| self.show(self.newest(alert))).collect())
    }

    fn get(&self, id: AlertId) -> Result<Option<AlertWithEvidence>, StateError> {
        let Some(kept) = self.state.alert(id)? else {
            return Ok(None);
        };
        Ok(Some(AlertWithEvidence {
            shown: self.show(self.newest(kept)),
            packed: self.state.evidence(id, collector::PROFILE)?,
            lines: self.lines(id),
        }))
    }

    /// What is kept of a live alert may be up to a minute old.
    fn newest(&self, kept: Alert) -> Alert {
        let live = self.evaluator.alerts().find(|alert| alert.id == kept.id);
        live.cloned().unwrap_or(kept)
    }

    fn show(&self, alert: Alert) -> ShownAlert {
        ShownAlert {
            silenced: !alert.phase.is_over() && self.evaluator.silence_of(&alert).is_some(),
            owner: owners::of(&alert, &self.board, &self.state),
            alert,
        }
    }

    fn silence(&mut self, silence: Silence, now: Moment) -> Result<Silence, SilenceError> {
        // One that is refused must not be in the file, where it would hold after a restart; and one that cannot be written
        // does not hold at all.
        self.evaluator.check_silence(&silence)?;
        let kept = self.state.add_silence(silence);
        report(&self.health, self.state.condition());
        let silence = kept?;
        self.evaluator.add_silence(silence.clone(), now)?;
        Ok(silence)
    }

    fn unsilence(&mut self, id: SilenceId) -> Result<bool, StateError> {
        let removed = self.state.remove_silence(id);
        report(&self.health, self.state.condition());
        removed?;
        Ok(self.evaluator.remove_silence(id))
    }
}

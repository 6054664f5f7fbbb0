//! What is followed of one subject under one limit, from one evaluation to the next.

use std::{sync::Arc, time::Duration};

use profiler_readings::{Moment, Scope, Subject};

use crate::{
    Alert, AlertId, AlertKind, Change, EndReason, Fingerprint, Held, Limit, Phase, Settings, Stored, limit::Side,
};

/// What was seen of a subject in one evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Value(f64),
    Missing(Missing),
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There should be one.
    NoData,
    /// There can be none.
    Unsupported,
    /// The subject may be there no more.
    Gone,
}

/// Whether subjects of this kind come and go in the life of a host.
pub(crate) fn comes_and_goes(scope: Scope) -> bool {
    match scope {
        Scope::Host | Scope::Core | Scope::Gpu => false,
        Scope::Disk | Scope::Network | Scope::Filesystem | Scope::Service | Scope::Process | Scope::ControlGroup => {
            true
        }
    }
}

/// What one step of a track needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) limit: &'a Arc<Limit>,
    pub(crate) subject: &'a Subject,
    pub(crate) settings: &'a Settings,
    pub(crate) now: Moment,
    /// Time since the evaluation before.
    pub(crate) elapsed: Duration,
    /// Whether one more alert may begin.
    pub(crate) has_room: bool,
}

/// What a step did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) changes: Vec<(Change, Live)>,
    /// An alert would have begun, and there was no room for it.
    pub(crate) refused: bool,
}

/// A live alert.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) alert: Alert,
    pub(crate) held: Held,
}

impl Live {
    fn begin(kind: AlertKind, step: &Step<'_>, began: Moment, value: Option<f64>) -> Self {
        let fingerprint = Fingerprint::of(&step.limit.name, step.subject, kind);
        Self {
            alert: Alert {
                id: AlertId::of(fingerprint, began.time),
                fingerprint,
                kind,
                limit: Arc::clone(step.limit),
                subject: step.subject.clone(),
                began: began.time,
                phase: Phase::Pending,
                latest: value,
                worst: value,
                told: false,
            },
            held: Held::default(),
        }
    }

    /// The alert at its end.
    pub(crate) fn end(mut self, reason: EndReason, now: Moment) -> (Change, Self) {
        let at = now.time;
        let (change, phase) = match self.alert.phase {
            Phase::Firing { since } => (Change::Resolved, Phase::Resolved { since, at, reason }),
            _ => (Change::Dropped, Phase::Dropped { at, reason }),
        };
        self.alert.phase = phase;
        (change, self)
    }

    /// Takes note of a reading on the good side; whether it has been there for long enough.
    fn is_cleared(&mut self, step: &Step<'_>) -> bool {
        let cleared = self.held.cleared.map_or(Duration::ZERO, |time| time + step.elapsed);
        self.held.cleared = Some(cleared);
        cleared >= step.limit.keep_firing_for
    }

    /// Takes note of a value. Why the alert ends by it, if it does.
    fn take(&mut self, value: f64, step: &Step<'_>) -> Option<EndReason> {
        self.alert.limit = Arc::clone(step.limit);
        self.alert.latest = Some(value);
        let worst = self.alert.worst.unwrap_or(value);
        self.alert.worst = Some(step.limit.worse(worst, value));
        let is_over = match (self.alert.phase, step.limit.side(value)) {
            (Phase::Firing { .. }, Side::Clear) => self.is_cleared(step),
            (Phase::Firing { .. }, _) => {
                self.held.cleared = None;
                false
            }
            (_, Side::Clear) => true,
            (_, Side::Between) => {
                self.held.between += step.elapsed;
                self.held.between >= step.limit.hold_for
            }
            (_, Side::Beyond) => {
                // A reading speaks of the time since the one before it.
                self.held.beyond += step.elapsed;
                self.held.between = Duration::ZERO;
                false
            }
        };
        is_over.then_some(EndReason::Recovered)
    }

    /// Fires if it has been pending for long enough and the last reading was beyond the level.
    fn ripen(&mut self, step: &Step<'_>, changes: &mut Vec<(Change, Self)>) {
        let is_ripe = self.held.between.is_zero() && self.held.beyond >= step.limit.hold_for;
        if self.alert.phase == Phase::Pending && is_ripe {
            self.fire(step.now, changes);
        }
    }

    fn fire(&mut self, now: Moment, changes: &mut Vec<(Change, Self)>) {
        self.alert.phase = Phase::Firing { since: now.time };
        changes.push((Change::Firing, self.clone()));
    }
}

/// What is followed of one subject under one limit.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// The alert that readings are beyond the limit.
    pub(crate) breach: Option<Live>,
    /// The alert that readings are missing.
    pub(crate) loss: Option<Live>,
    /// For how long readings have been missing; none while they are there.
    missing: Option<Duration>,
    /// The evaluation in which the subject was last seen.
    pub(crate) seen_in: u64,
}

impl Track {
    /// The live alerts.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Live> {
        self.breach.iter().chain(&self.loss)
    }

    /// The live alerts, to be changed.
    pub(crate) fn live_mut(&mut self) -> impl Iterator<Item = &mut Live> {
        self.breach.iter_mut().chain(&mut self.loss)
    }

    /// Ends whatever is live.
    pub(crate) fn end(&mut self, reason: EndReason, now: Moment) -> impl Iterator<Item = (Change, Live)> {
        let live = self.breach.take().into_iter().chain(self.loss.take());
        live.map(move |live| live.end(reason, now))
    }

    /// Whether there is nothing to remember of a subject of this kind.
    pub(crate) fn is_idle(&self, scope: Scope) -> bool {
        self.live().next().is_none() && self.missing.is_none() && comes_and_goes(scope)
    }

    /// Takes a stored alert back. Whether there was none of its kind.
    pub(crate) fn put_back(&mut self, stored: Stored) -> bool {
        let place = match stored.alert.kind {
            AlertKind::Limit => &mut self.breach,
            AlertKind::NoData => &mut self.loss,
        };
        let is_free = place.is_none();
        if is_free {
            *place = Some(Live {
                alert: stored.alert,
                held: stored.held,
            });
        }
        is_free
    }

    pub(crate) fn step(&mut self, seen: Seen, step: &Step<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        match seen {
            Seen::Value(value) => self.take(value, step, &mut outcome),
            Seen::Missing(why) => self.miss(why, step, &mut outcome),
        }
        outcome
    }

    fn take(&mut self, value: f64, step: &Step<'_>, outcome: &mut Outcome) {
        self.missing = None;
        if let Some(mut loss) = self.loss.take() {
            loss.alert.latest = Some(value);
            if loss.is_cleared(step) {
                outcome.changes.push(loss.end(EndReason::Recovered, step.now));
            } else {
                self.loss = Some(loss);
            }
        }
        let mut live = match self.breach.take() {
            Some(mut live) => {
                if let Some(reason) = live.take(value, step) {
                    outcome.changes.push(live.end(reason, step.now));
                    return;
                }
                live
            }
            None if step.limit.side(value) != Side::Beyond => return,
            None if !step.has_room => {
                outcome.refused = true;
                return;
            }
            None => {
                let live = Live::begin(AlertKind::Limit, step, step.now, Some(value));
                outcome.changes.push((Change::Pending, live.clone()));
                live
            }
        };
        live.ripen(step, &mut outcome.changes);
        self.breach = Some(live);
    }

    fn miss(&mut self, why: Missing, step: &Step<'_>, outcome: &mut Outcome) {
        let missing = self.missing.map_or(Duration::ZERO, |time| time + step.elapsed);
        self.missing = Some(missing);
        if let Some(loss) = &mut self.loss {
            loss.held.cleared = None;
        }
        let reason = match why {
            Missing::Gone => EndReason::Gone,
            Missing::Unsupported => EndReason::Unsupported,
            Missing::NoData => {
                if missing >= step.limit.no_data_after {
                    self.lose(missing, step, outcome);
                }
                return;
            }
        };
        if missing >= step.settings.gone_after {
            outcome.changes.extend(self.end(reason, step.now));
            self.missing = None;
        }
    }

    /// Readings have been missing for too long.
    fn lose(&mut self, missing: Duration, step: &Step<'_>, outcome: &mut Outcome) {
        if let Some(pending) = self.breach.take_if(|live| live.alert.phase == Phase::Pending) {
            outcome.changes.push(pending.end(EndReason::NoData, step.now));
        }
        if self.loss.is_some() {
            return;
        }
        if !step.has_room {
            outcome.refused = true;
            return;
        }
        let began = Moment {
            since_boot: step.now.since_boot.saturating_sub(missing),
            time: step.now.time.checked_sub(missing).unwrap_or(step.now.time),
        };
        let latest = self.breach.as_ref().and_then(|live| live.alert.latest);
        let mut live = Live::begin(AlertKind::NoData, step, began, latest);
        live.fire(step.now, &mut outcome.changes);
        self.loss = Some(live);
    }
}

//! An evaluator on clocks of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use profiler_alerts::{
    AlertKind, Change, Comparison, Evaluator, Level, Limit, Moment, Observation, Settings, Severity, Subjects,
    Transition,
};
use profiler_readings::{Gap, Metric, Subject};

pub(crate) fn level(value: f64) -> Level {
    Level::new(value).expect("a number")
}

pub(crate) fn limit(name: &str, metric: Metric) -> Limit {
    Limit {
        name: name.to_owned(),
        metric,
        subjects: Subjects::All,
        comparison: Comparison::Above,
        level: level(0.7),
        clear: level(0.63),
        hold_for: Duration::from_secs(30),
        keep_firing_for: Duration::from_secs(60),
        no_data_after: Duration::from_secs(60),
        severity: Severity::Warning,
        labels: BTreeMap::new(),
        sinks: vec!["journal".to_owned()],
    }
}

/// An evaluator on clocks of its own, a second a step.
pub(crate) struct Simulation {
    pub(crate) evaluator: Evaluator,
    pub(crate) seconds: u64,
    /// What the clock on the wall shows beyond the seconds.
    pub(crate) wall_offset: Duration,
    pub(crate) seen: Vec<(u64, Transition)>,
}

impl Simulation {
    pub(crate) fn new(limits: &[Limit]) -> Self {
        let mut simulation = Self {
            evaluator: Evaluator::new(Settings::default()),
            seconds: 0,
            wall_offset: Duration::from_secs(1_800_000_000),
            seen: Vec::new(),
        };
        simulation.set_limits(limits);
        simulation
    }

    pub(crate) fn set_limits(&mut self, limits: &[Limit]) {
        let now = self.now();
        let changed = self.evaluator.set_limits(limits.iter().cloned().map(Arc::new), now);
        self.note(changed);
    }

    pub(crate) fn now(&self) -> Moment {
        let since_boot = Duration::from_secs(self.seconds);
        Moment {
            time: UNIX_EPOCH + self.wall_offset + since_boot,
            since_boot,
        }
    }

    pub(crate) fn note(&mut self, changed: Vec<Transition>) {
        self.seen
            .extend(changed.into_iter().map(|change| (self.seconds, change)));
    }

    pub(crate) fn observe(&mut self, observations: &[Observation]) {
        self.seconds += 1;
        let changed = self.evaluator.evaluate(observations, self.now());
        self.note(changed);
    }

    /// One value of the host's CPU each second.
    pub(crate) fn host(&mut self, values: impl IntoIterator<Item = Result<f64, Gap>>) {
        for value in values {
            self.observe(&[host(value)]);
        }
    }

    /// When what happened to alerts of a kind.
    pub(crate) fn changes(&self, kind: AlertKind) -> Vec<(u64, Change)> {
        let of_kind = self.seen.iter().filter(|(_, seen)| seen.stored.alert.kind == kind);
        of_kind.map(|(at, seen)| (*at, seen.change)).collect()
    }

    pub(crate) fn last(&self) -> &Transition {
        &self.seen.last().expect("something happened").1
    }

    pub(crate) fn told(&self) -> Vec<(u64, Change)> {
        let told = self.seen.iter().filter(|(_, seen)| seen.notify);
        told.map(|(at, seen)| (*at, seen.change)).collect()
    }
}

pub(crate) fn host(value: Result<f64, Gap>) -> Observation {
    Observation {
        metric: Metric::HostCpuBusy,
        subject: Subject::Host,
        value,
    }
}

pub(crate) fn service(name: &str, value: f64) -> Observation {
    Observation {
        metric: Metric::ServiceMemoryLimitUsed,
        subject: Subject::Service(name.into()),
        value: Ok(value),
    }
}

pub(crate) fn repeat(value: f64, seconds: usize) -> impl Iterator<Item = Result<f64, Gap>> {
    std::iter::repeat_n(Ok(value), seconds)
}

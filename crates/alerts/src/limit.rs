//! What a limit says.

use std::{collections::BTreeMap, time::Duration};

use profiler_readings::{Metric, Subject};

/// A limit on one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name, unique among the limits.
    pub name: String,
    /// What is held against it. Of a counter, its rate a second is.
    pub metric: Metric,
    /// Whose readings are.
    pub subjects: Subjects,
    /// On which side of the level it is crossed.
    pub comparison: Comparison,
    /// The level beyond which an alert becomes pending, in the unit of the metric.
    pub level: Level,
    /// The level at which an alert ends; never beyond [`Self::level`].
    pub clear: Level,
    /// For how long a reading must be beyond the level before the alert fires: the `for` of Prometheus.
    pub hold_for: Duration,
    /// For how long a reading must stay at the clear level or better before the alert is resolved.
    pub keep_firing_for: Duration,
    /// For how long readings must be missing before that is an alert of its own.
    pub no_data_after: Duration,
    /// How much it matters.
    pub severity: Severity,
    /// What else is said of its alerts.
    pub labels: BTreeMap<String, String>,
    /// Who is told, by the names of sinks.
    pub sinks: Vec<String>,
}

impl Limit {
    /// Whether readings of this subject are held against the limit.
    pub fn applies_to(&self, subject: &Subject) -> bool {
        subject.scope() == self.metric.scope()
            && match &self.subjects {
                Subjects::All => true,
                Subjects::Named(name) => subject.to_string() == *name,
            }
    }

    /// Where a value lies.
    pub(crate) fn side(&self, value: f64) -> Side {
        let (beyond, clear) = match self.comparison {
            Comparison::Above => (value > self.level.get(), value <= self.clear.get()),
            Comparison::Below => (value < self.level.get(), value >= self.clear.get()),
        };
        match (beyond, clear) {
            (true, _) => Side::Beyond,
            (false, true) => Side::Clear,
            (false, false) => Side::Between,
        }
    }

    /// The worse of two values.
    pub(crate) fn worse(&self, one: f64, other: f64) -> f64 {
        match self.comparison {
            Comparison::Above => one.max(other),
            Comparison::Below => one.min(other),
        }
    }
}

/// Where a value lies by the levels of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Beyond,
    Between,
    Clear,
}

/// Whose readings are held against a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Everyone's that the metric is about, each by itself.
    All,
    /// Only those of the subject that is shown by this name.
    Named(String),
}

/// On which side of its level a limit is crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// A greater value crosses it.
    Above,
    /// A smaller value crosses it.
    Below,
}

impl Comparison {
    /// Its name in configuration and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

/// How much an alert matters, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look soon.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl Severity {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Its name in configuration, labels and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A finite number, so that levels can be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level(f64);

impl Eq for Level {}

impl Level {
    /// A level, unless the number is infinite or none.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

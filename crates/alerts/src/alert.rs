//! An alert and its identity.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler_readings::Subject;
use sha2::{Digest, Sha256};

use crate::Limit;

/// What an alert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// Readings are beyond the limit.
    Limit,
    /// Readings are missing: whether they are beyond the limit is not known.
    NoData,
}

impl AlertKind {
    /// Its name in labels and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::NoData => "no_data",
        }
    }
}

/// What an alert is about: the limit by name, the subject and the kind. The same over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The fingerprint of alerts of a kind, of a limit, about a subject.
    pub fn of(limit: &str, subject: &Subject, kind: AlertKind) -> Self {
        let start_ticks = match subject {
            Subject::Process { start_ticks, .. } => *start_ticks,
            _ => 0,
        };
        let shown = subject.to_string();
        let parts = [limit, kind.name(), subject.scope().name(), &shown];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(start_ticks.to_le_bytes());
        Self(first_word(hash))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One alert from its beginning to its end. It is shown as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlertId(pub u64);

impl AlertId {
    /// The alert with this fingerprint that began then.
    pub fn of(fingerprint: Fingerprint, began: SystemTime) -> Self {
        let since_epoch = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(fingerprint.0.to_le_bytes());
        hash.update(since_epoch.as_nanos().to_le_bytes());
        Self(first_word(hash))
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for AlertId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

fn first_word(hash: Sha256) -> u64 {
    let digest = hash.finalize();
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(word)
}

/// Where an alert is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Readings are beyond the level, but not for long enough.
    Pending,
    /// It holds.
    Firing {
        /// Since when.
        since: SystemTime,
    },
    /// It held, and does no longer.
    Resolved {
        /// Since when it held.
        since: SystemTime,
        /// Until when.
        at: SystemTime,
        /// Why it ended.
        reason: EndReason,
    },
    /// It was pending and never held.
    Dropped {
        /// When it was given up.
        at: SystemTime,
        /// Why.
        reason: EndReason,
    },
}

impl Phase {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing { .. } => "firing",
            Self::Resolved { .. } => "resolved",
            Self::Dropped { .. } => "dropped",
        }
    }

    /// Whether nothing comes after it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Resolved { .. } | Self::Dropped { .. })
    }
}

/// Why an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Readings passed the clear level; of missing readings, they came back.
    Recovered,
    /// The subject is there no more: the process ended, the service stopped.
    Gone,
    /// The host cannot measure it any more.
    Unsupported,
    /// The limit was taken out of the configuration or switched off.
    LimitRemoved,
    /// Readings were missing before it fired.
    NoData,
    /// It was pending when the daemon stopped, and that is too long ago.
    Interrupted,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Recovered,
        Self::Gone,
        Self::Unsupported,
        Self::LimitRemoved,
        Self::NoData,
        Self::Interrupted,
    ];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Gone => "gone",
            Self::Unsupported => "unsupported",
            Self::LimitRemoved => "limit_removed",
            Self::NoData => "no_data",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An alert as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Which one.
    pub id: AlertId,
    /// What it is about; one alert of each fingerprint is live at a time.
    pub fingerprint: Fingerprint,
    /// What it says.
    pub kind: AlertKind,
    /// The limit as it was when it last was held against it.
    pub limit: Arc<Limit>,
    /// Whose readings.
    pub subject: Subject,
    /// When it began: when the first reading beyond the level was seen, or the first one missed.
    pub began: SystemTime,
    /// Where it is on its way.
    pub phase: Phase,
    /// The newest reading; none of readings that are missing since the daemon started.
    pub latest: Option<f64>,
    /// The reading farthest beyond the level since it began.
    pub worst: Option<f64>,
    /// Whether anybody was told that it fires.
    pub told: bool,
}

/// Names of labels that are not for limits to set.
pub(crate) const OWN_LABELS: [&str; 6] = ["alertname", "kind", "metric", "scope", "severity", "subject"];

impl Alert {
    /// What identifies it to others, and what silences match: the limit's own labels, and `alertname` (the limit's name),
    /// `kind`, `metric`, `scope`, `severity` and, of all but the host, `subject`. No value that changes while it lives.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.limit.labels.clone();
        let subject = self.subject.to_string();
        let own = [
            self.limit.name.as_str(),
            self.kind.name(),
            self.limit.metric.name(),
            self.subject.scope().name(),
            self.limit.severity.name(),
            &subject,
        ];
        for (name, value) in OWN_LABELS.into_iter().zip(own) {
            if !value.is_empty() {
                labels.insert(name.to_owned(), value.to_owned());
            }
        }
        labels
    }
}

/// What a live alert has behind it, by a clock that nobody sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Time beyond the level while pending.
    pub beyond: Duration,
    /// Time between the levels since it was last beyond, while pending.
    pub between: Duration,
    /// Time since the reading passed the clear level, while firing; none while it has not.
    pub cleared: Option<Duration>,
}

/// A live alert as it outlives the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The alert.
    pub alert: Alert,
    /// What it has behind it.
    pub held: Held,
    /// When that was so.
    pub saved: SystemTime,
}

impl Limit {
    /// Whether a label is one that every alert has, and a limit must not set.
    pub fn is_own_label(name: &str) -> bool {
        OWN_LABELS.contains(&name)
    }
}

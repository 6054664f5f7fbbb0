//! What outlives the daemon: alerts, silences, evidence and runs of hooks, in one small SQLite file.
//!
//! In: alerts as they change, silences, what is kept with alerts, and what sinks were not told yet. Out: the same after a restart, and a history. The only
//! part of this crate that does I/O. What cannot be kept does not stop anything: a file that is no database any more is set
//! aside, a full disk keeps changes waiting in memory, and a directory that cannot be written makes all of it a matter of
//! memory. [`State::condition`] says which of these it is.

mod alerts;
mod database;
mod error;
mod evidence;
mod file;
mod hooks;
mod outbox;
mod schema;
mod silences;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use alerts::AlertQuery;
pub use error::StateError;
pub use evidence::{Encoding, Evidence, EvidenceEntry};
pub use hooks::{HookRuns, RunBounds, RunQuery};
pub use outbox::{KeptNotification, Outbox};
use profiler_alerts::Stored;

use database::Database;

/// Changes that wait in memory for a disk that can be written again; the oldest are given up first.
const MAX_WAITING: usize = 2000;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Age at which alerts that are over are dropped.
    pub history: Duration,
    /// Alerts that are over and kept; the oldest are dropped first.
    pub max_history: usize,
    /// Room for all evidence; the oldest is dropped first.
    pub max_evidence_bytes: u64,
}

/// How well things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In the file.
    Kept,
    /// In a new file: the one before could not be read.
    Renewed {
        /// What it is called now.
        set_aside: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// In memory only: the file cannot be used at all.
    InMemory {
        /// Why not.
        reason: String,
    },
    /// Changes wait in memory for a file that cannot be written for now.
    Waiting {
        /// What was said at the last attempt.
        reason: String,
        /// Changed alerts that wait.
        waiting: usize,
    },
}

/// Alerts, silences and evidence.
#[derive(Debug)]
pub struct State {
    database: Database,
    bounds: Bounds,
    waiting: VecDeque<Stored>,
    given_up: u64,
}

impl State {
    /// Opens the file in a directory, or makes it. Where that cannot be done, everything is in memory.
    ///
    /// # Errors
    /// Not even memory can be used.
    pub fn open(directory: &Path, bounds: Bounds) -> Result<Self, StateError> {
        Ok(Self {
            database: Database::open(directory)?,
            bounds,
            waiting: VecDeque::new(),
            given_up: 0,
        })
    }

    /// How well things are kept.
    pub fn condition(&self) -> Condition {
        self.database.condition(self.waiting.len())
    }

    /// Changed alerts that were given up because too many waited, since the start.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Keeps so much from now on. What is beyond it is dropped with the next change.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Keeps alerts as they are now, and drops what is beyond the bounds. An alert that never fired and is over leaves
    /// nothing. Besides changed alerts, all that are live are best given once a minute: what a pending alert has behind it is
    /// then not lost with the daemon, and a file that had to be renewed is whole again.
    ///
    /// # Errors
    /// They could not be written. They wait in memory and are written with the next ones.
    pub fn record(&mut self, changed: &[Stored], now: SystemTime) -> Result<(), StateError> {
        for stored in changed {
            self.waiting.retain(|waiting| waiting.alert.id != stored.alert.id);
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_front();
                self.given_up += 1;
            }
            self.waiting.push_back(stored.clone());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let bounds = self.bounds;
        let written = self.database.write(|transaction| {
            for stored in &waiting {
                alerts::put(transaction, stored)?;
            }
            alerts::prune(transaction, &bounds, now)?;
            silences::prune(transaction, now)?;
            evidence::prune(transaction, bounds.max_evidence_bytes)
        });
        if written.is_err() {
            self.waiting = waiting;
        }
        written
    }
}

/// As it is written: nanoseconds since 1970.
fn to_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn from_ns(ns: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

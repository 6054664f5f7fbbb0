//! What outlives the daemon: alerts, silences and evidence, in one small SQLite file.
//!
//! In: alerts as they change, silences, and what is kept with alerts. Out: the same after a restart, and a history. The only
//! part of this crate that does I/O. What cannot be kept does not stop anything: a file that is no database any more is set
//! aside, a full disk keeps changes waiting in memory, and a directory that cannot be written makes all of it a matter of
//! memory. [`State::condition`] says which of these it is.

mod alerts;
mod error;
mod evidence;
mod file;
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

use profiler_alerts::Stored;
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use alerts::AlertQuery;
pub use error::StateError;
pub use evidence::{Encoding, Evidence, EvidenceEntry};

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

/// What outlives the daemon.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    /// The file; none where everything is in memory.
    file: Option<PathBuf>,
    bounds: Bounds,
    in_memory: Option<String>,
    set_aside: Option<(PathBuf, String)>,
    failing: Option<String>,
    waiting: VecDeque<Stored>,
    given_up: u64,
}

impl State {
    /// Opens the file in a directory, or makes it. Where that cannot be done, everything is in memory.
    ///
    /// # Errors
    /// Not even memory can be used.
    pub fn open(directory: &Path, bounds: Bounds) -> Result<Self, StateError> {
        let path = directory.join(file::NAME);
        let opened = match file::open(&path) {
            Err(error) if error.means_unreadable() => file::set_aside(&path, &error).and_then(|aside| {
                let reason = error.to_string();
                Ok((file::open(&path)?, Some((aside, reason))))
            }),
            opened => opened.map(|connection| (connection, None)),
        };
        let (connection, set_aside, file, in_memory) = match opened {
            Ok((connection, set_aside)) => (connection, set_aside, Some(path), None),
            Err(error) => (file::in_memory()?, None, None, Some(error.to_string())),
        };
        let mut state = Self {
            connection,
            file,
            bounds,
            in_memory,
            set_aside,
            failing: None,
            waiting: VecDeque::new(),
            given_up: 0,
        };
        // What cannot be written is known before the first alert.
        let _told_by_the_condition = state.write(|transaction| Ok(schema::touch(transaction)?));
        Ok(state)
    }

    /// How well things are kept.
    pub fn condition(&self) -> Condition {
        if let Some(reason) = self.in_memory.clone() {
            return Condition::InMemory { reason };
        }
        if let Some(reason) = self.failing.clone() {
            let waiting = self.waiting.len();
            return Condition::Waiting { reason, waiting };
        }
        match self.set_aside.clone() {
            Some((set_aside, reason)) => Condition::Renewed { set_aside, reason },
            None => Condition::Kept,
        }
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
        let written = self.write(|transaction| {
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

    /// Writes in one piece. A file that turns out to be unreadable is set aside, and the new one is written.
    fn write<T>(&mut self, write: impl Fn(&Transaction<'_>) -> Result<T, StateError>) -> Result<T, StateError> {
        let written = match Self::attempt(&mut self.connection, &write) {
            Err(error) if error.means_unreadable() && self.file.is_some() => {
                self.renew(&error)?;
                Self::attempt(&mut self.connection, &write)
            }
            outcome => outcome,
        };
        match &written {
            Ok(_) => self.failing = None,
            Err(error @ StateError::Sqlite(_)) => self.failing = Some(error.to_string()),
            // What was asked for was wrong, not the file.
            Err(_) => {}
        }
        written
    }

    fn attempt<T>(
        connection: &mut Connection,
        write: impl Fn(&Transaction<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let written = write(&transaction)?;
        transaction.commit()?;
        Ok(written)
    }

    fn renew(&mut self, error: &StateError) -> Result<(), StateError> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        // The old file must be closed before it is moved.
        self.connection = file::in_memory()?;
        let renewed = file::set_aside(&path, error).and_then(|aside| Ok((aside, file::open(&path)?)));
        match renewed {
            Ok((aside, connection)) => {
                self.connection = connection;
                self.set_aside = Some((aside, error.to_string()));
            }
            Err(error) => {
                self.file = None;
                self.in_memory = Some(error.to_string());
            }
        }
        Ok(())
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

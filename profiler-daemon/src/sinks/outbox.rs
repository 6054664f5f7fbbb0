//! What outlives the daemon: notifications that were not delivered yet.

use std::{collections::BTreeMap, fmt};

use super::queue::EntryId;

/// Why something cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct OutboxError {
    /// What happened.
    pub reason: String,
}

/// A notification as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub id: EntryId,
    /// Which sink is to be told.
    pub sink: String,
    /// The notification as JSON.
    pub payload: Vec<u8>,
}

/// Where notifications are kept until they are delivered.
pub trait Outbox: Send + fmt::Debug {
    /// Keeps one. When this returns, it outlives the daemon.
    ///
    /// # Errors
    /// It cannot be kept.
    fn put(&mut self, kept: &Kept) -> Result<(), OutboxError>;

    /// Forgets some; those that are not there are forgotten already.
    ///
    /// # Errors
    /// They may still be there, and be told again after a restart.
    fn remove(&mut self, ids: &[EntryId]) -> Result<(), OutboxError>;

    /// All that is kept, by number.
    ///
    /// # Errors
    /// It cannot be read.
    fn load(&mut self) -> Result<Vec<Kept>, OutboxError>;
}

/// Keeps notifications as long as the daemon lives: where nothing can be written.
#[derive(Debug, Default)]
pub struct MemoryOutbox {
    kept: BTreeMap<EntryId, Kept>,
}

impl Outbox for MemoryOutbox {
    fn put(&mut self, kept: &Kept) -> Result<(), OutboxError> {
        self.kept.insert(kept.id, kept.clone());
        Ok(())
    }

    fn remove(&mut self, ids: &[EntryId]) -> Result<(), OutboxError> {
        for id in ids {
            self.kept.remove(id);
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Vec<Kept>, OutboxError> {
        Ok(self.kept.values().cloned().collect())
    }
}

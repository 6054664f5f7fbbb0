//! Notifications that were not delivered yet. What the bytes mean is their maker's business.

use std::path::Path;

use rusqlite::params;

use super::{Condition, StateError, database::Database};

/// Most notifications that are kept, of all sinks together.
const MAX_KEPT: i64 = 20_000;
/// Most bytes of one.
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;

/// A notification that was not delivered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNotification {
    /// Its number, which its maker gave it.
    pub id: u64,
    /// The sink that it is for.
    pub sink: String,
    /// What the sink is to be told.
    pub payload: Vec<u8>,
}

/// What sinks are still to be told, in the same file as the alerts, by a connection of its own: sinks have threads of their
/// own.
#[derive(Debug)]
pub struct Outbox {
    database: Database,
}

impl Outbox {
    /// Opens the file in a directory, or makes it. Where that cannot be done, everything is in memory.
    ///
    /// # Errors
    /// Not even memory can be used.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        Ok(Self {
            database: Database::open(directory)?,
        })
    }

    /// How well notifications are kept.
    pub fn condition(&self) -> Condition {
        self.database.condition(0)
    }

    /// Keeps one, in place of one with the same number. When this returns, it outlives the daemon.
    ///
    /// # Errors
    /// It cannot be kept, or there is no room for it.
    pub fn put(&mut self, notification: &KeptNotification) -> Result<(), StateError> {
        let bytes = notification.payload.len() as u64;
        if bytes > MAX_PAYLOAD_BYTES {
            let most = MAX_PAYLOAD_BYTES;
            return Err(StateError::TooLarge { bytes, most });
        }
        self.database.write(|transaction| {
            let kept: i64 = transaction.query_row("SELECT count(*) FROM notification", [], |row| row.get(0))?;
            if kept >= MAX_KEPT {
                return Err(StateError::TooMany { most: MAX_KEPT });
            }
            transaction.execute(
                "INSERT OR REPLACE INTO notification (id, sink, payload) VALUES (?1, ?2, ?3)",
                params![notification.id.cast_signed(), notification.sink, notification.payload],
            )?;
            Ok(())
        })
    }

    /// Forgets some. Those that are not there are forgotten already.
    ///
    /// # Errors
    /// They may still be there.
    pub fn remove(&mut self, ids: &[u64]) -> Result<(), StateError> {
        self.database.write(|transaction| {
            let mut statement = transaction.prepare("DELETE FROM notification WHERE id = ?1")?;
            for id in ids {
                statement.execute([id.cast_signed()])?;
            }
            Ok(())
        })
    }

    /// All that is kept, by number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn all(&self) -> Result<Vec<KeptNotification>, StateError> {
        let mut statement = self
            .database
            .connection()
            .prepare("SELECT id, sink, payload FROM notification ORDER BY id")?;
        let kept = statement.query_map([], |row| {
            Ok(KeptNotification {
                id: row.get::<_, i64>(0)?.cast_unsigned(),
                sink: row.get(1)?,
                payload: row.get(2)?,
            })
        })?;
        Ok(kept.collect::<Result<_, _>>()?)
    }
}

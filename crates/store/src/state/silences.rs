//! Silences.

use std::time::SystemTime;

use profiler_alerts::{Silence, SilenceId};
use rusqlite::{Transaction, params};

use super::{State, StateError, from_ns, to_ns, wire};

impl State {
    /// Keeps a silence and gives it its number.
    ///
    /// # Errors
    /// It could not be written.
    pub fn add_silence(&mut self, mut silence: Silence) -> Result<Silence, StateError> {
        let matchers = wire::write_matchers(&silence.matchers)?;
        let number = self.database.write(|transaction| {
            transaction.execute(
                "INSERT INTO silence (matchers, made_ns, until_ns, who, comment) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    matchers,
                    to_ns(silence.made),
                    to_ns(silence.until),
                    silence.who,
                    silence.comment
                ],
            )?;
            Ok(transaction.last_insert_rowid())
        })?;
        silence.id = SilenceId(number.cast_unsigned());
        Ok(silence)
    }

    /// Ends a silence. Whether there was one.
    ///
    /// # Errors
    /// It could not be written.
    pub fn remove_silence(&mut self, id: SilenceId) -> Result<bool, StateError> {
        self.database.write(|transaction| {
            let removed = transaction.execute("DELETE FROM silence WHERE id = ?1", [id.0.cast_signed()])?;
            Ok(removed > 0)
        })
    }

    /// The silences that are not over. Rows that cannot be understood are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn silences(&self, now: SystemTime) -> Result<Vec<Silence>, StateError> {
        let mut statement = self.database.connection().prepare(
            "SELECT id, matchers, made_ns, until_ns, who, comment FROM silence WHERE until_ns > ?1 ORDER BY id",
        )?;
        let mut rows = statement.query([to_ns(now)])?;
        let mut silences = Vec::new();
        while let Some(row) = rows.next()? {
            let Ok(matchers) = wire::read_matchers(&row.get::<_, String>(1)?) else {
                continue;
            };
            silences.push(Silence {
                id: SilenceId(row.get::<_, i64>(0)?.cast_unsigned()),
                matchers,
                made: from_ns(row.get(2)?),
                until: from_ns(row.get(3)?),
                who: row.get(4)?,
                comment: row.get(5)?,
            });
        }
        Ok(silences)
    }
}

/// Drops silences that are over.
pub(super) fn prune(transaction: &Transaction<'_>, now: SystemTime) -> Result<(), StateError> {
    transaction.execute("DELETE FROM silence WHERE until_ns <= ?1", [to_ns(now)])?;
    Ok(())
}

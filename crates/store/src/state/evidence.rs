//! Evidence: what is kept with an alert. What the bytes mean is their maker's business.

use std::time::SystemTime;

use profiler_alerts::AlertId;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{State, StateError, alerts, from_ns, to_ns};

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// By Zstandard.
    Zstd,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
        }
    }

    fn read(name: &str) -> Result<Self, StateError> {
        let known = [Self::Raw, Self::Zstd].into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| StateError::BadRow {
            what: "an encoding",
            value: name.to_owned(),
        })
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What it is, a word of its maker's.
    pub kind: String,
    /// How its bytes are packed.
    pub encoding: Encoding,
    /// When it was made.
    pub made: SystemTime,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// That there is a piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceEntry {
    /// What it is.
    pub kind: String,
    /// How large it is.
    pub bytes: u64,
    /// When it was made.
    pub made: SystemTime,
}

impl State {
    /// Keeps a piece of evidence with an alert, in place of one of the same kind; the oldest of all alerts makes room.
    ///
    /// # Errors
    /// It could not be written, there is no room for it, or the alert is not kept.
    pub fn put_evidence(&mut self, alert: AlertId, evidence: &Evidence) -> Result<(), StateError> {
        let (bytes, most) = (evidence.body.len() as u64, self.bounds.max_evidence_bytes);
        if bytes > most {
            return Err(StateError::TooLarge { bytes, most });
        }
        self.database.write(|transaction| {
            if !alerts::is_kept(transaction, alert)? {
                return Err(StateError::NoSuchAlert);
            }
            transaction.execute(
                "INSERT OR REPLACE INTO evidence (alert, kind, encoding, made_ns, bytes, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    alert.0.cast_signed(),
                    evidence.kind,
                    evidence.encoding.name(),
                    to_ns(evidence.made),
                    bytes.cast_signed(),
                    evidence.body
                ],
            )?;
            prune(transaction, most)
        })
    }

    /// A piece of evidence that is kept with an alert.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn evidence(&self, alert: AlertId, kind: &str) -> Result<Option<Evidence>, StateError> {
        let row: Option<(String, i64, Vec<u8>)> = self
            .database
            .connection()
            .query_row(
                "SELECT encoding, made_ns, body FROM evidence WHERE alert = ?1 AND kind = ?2",
                params![alert.0.cast_signed(), kind],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        let Some((encoding, made, body)) = row else {
            return Ok(None);
        };
        Ok(Some(Evidence {
            kind: kind.to_owned(),
            encoding: Encoding::read(&encoding)?,
            made: from_ns(made),
            body,
        }))
    }

    /// What is kept with an alert, in the order in which it came.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn evidence_of(&self, alert: AlertId) -> Result<Vec<EvidenceEntry>, StateError> {
        let mut statement = self
            .database
            .connection()
            .prepare("SELECT kind, bytes, made_ns FROM evidence WHERE alert = ?1 ORDER BY number")?;
        let entries = statement.query_map([alert.0.cast_signed()], |row| {
            Ok(EvidenceEntry {
                kind: row.get(0)?,
                bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                made: from_ns(row.get(2)?),
            })
        })?;
        Ok(entries.collect::<Result<_, _>>()?)
    }
}

/// Drops the oldest evidence until the rest has room.
pub(super) fn prune(transaction: &Transaction<'_>, max_bytes: u64) -> Result<(), StateError> {
    let all: i64 = transaction.query_row("SELECT coalesce(sum(bytes), 0) FROM evidence", [], |row| row.get(0))?;
    let mut excess = all.saturating_sub(i64::try_from(max_bytes).unwrap_or(i64::MAX));
    while excess > 0 {
        let oldest: Option<(i64, i64)> = transaction
            .query_row(
                "SELECT number, bytes FROM evidence ORDER BY number LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((number, bytes)) = oldest else { break };
        transaction.execute("DELETE FROM evidence WHERE number = ?1", [number])?;
        excess = excess.saturating_sub(bytes);
    }
    Ok(())
}

//! Alerts: those that are live, and those that were.

use std::{sync::Arc, time::SystemTime};

use profiler_alerts::{Alert, AlertId, AlertKind, EndReason, Fingerprint, Held, Phase, Stored};
use profiler_readings::Subject;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::{
    Bounds, State, StateError, from_ns, to_ns,
    wire::{self, bad},
};

/// Most alerts in one answer: a page of a thousand, and one that tells that there are more.
const MAX_ANSWER: usize = 1001;

/// Which alerts are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertQuery {
    /// Only those that are live, or only those that are over.
    pub is_over: Option<bool>,
    /// Only those of this limit.
    pub limit_name: Option<String>,
    /// Only those that were live at this time or later.
    pub since: Option<SystemTime>,
    /// At most so many, and never more than a thousand and one; all that fit for 0.
    pub most: usize,
}

impl State {
    /// The live alerts as they were last kept, in the order in which they began to be. A row that cannot be understood, of
    /// a reading that is no more, is dropped.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn live(&mut self) -> Result<Vec<Stored>, StateError> {
        let mut live = Vec::new();
        let mut unknown = Vec::new();
        {
            let mut statement = self
                .database
                .connection()
                .prepare("SELECT * FROM alert WHERE ended_ns IS NULL ORDER BY number")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                match read(row) {
                    Ok(stored) => live.push(stored),
                    Err(StateError::BadRow { .. }) => unknown.push(row.get::<_, i64>("number")?),
                    Err(error) => return Err(error),
                }
            }
        }
        if !unknown.is_empty() {
            // On a disk that is full they stay, and are left out again the next time.
            let _told_by_the_condition = self.database.write(|transaction| {
                for number in &unknown {
                    transaction.execute("DELETE FROM alert WHERE number = ?1", [number])?;
                }
                Ok(())
            });
        }
        Ok(live)
    }

    /// Alerts, the newest first. Rows that cannot be understood are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn alerts(&self, query: &AlertQuery) -> Result<Vec<Alert>, StateError> {
        let most = match query.most {
            0 => MAX_ANSWER,
            most => most.min(MAX_ANSWER),
        };
        let mut statement = self.database.connection().prepare(
            "SELECT * FROM alert
             WHERE (:is_over IS NULL OR (ended_ns IS NOT NULL) = :is_over)
               AND (:limit_name IS NULL OR limit_name = :limit_name)
               AND (:since IS NULL OR ended_ns IS NULL OR ended_ns >= :since)
             ORDER BY number DESC LIMIT :most",
        )?;
        let mut rows = statement.query(named_params! {
            ":is_over": query.is_over,
            ":limit_name": query.limit_name,
            ":since": query.since.map(to_ns),
            ":most": i64::try_from(most).unwrap_or(i64::MAX),
        })?;
        let mut alerts = Vec::new();
        while let Some(row) = rows.next()? {
            match read(row) {
                Ok(stored) => alerts.push(stored.alert),
                Err(StateError::BadRow { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(alerts)
    }

    /// One alert.
    ///
    /// # Errors
    /// The file cannot be read, or the row cannot be understood.
    pub fn alert(&self, id: AlertId) -> Result<Option<Alert>, StateError> {
        let mut statement = self
            .database
            .connection()
            .prepare("SELECT * FROM alert WHERE id = ?1")?;
        let mut rows = statement.query([id.0.cast_signed()])?;
        match rows.next()? {
            Some(row) => Ok(Some(read(row)?.alert)),
            None => Ok(None),
        }
    }
}

/// Whether an alert is kept.
pub(super) fn is_kept(connection: &Connection, id: AlertId) -> Result<bool, StateError> {
    let found: Option<i64> = connection
        .query_row("SELECT number FROM alert WHERE id = ?1", [id.0.cast_signed()], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(found.is_some())
}

/// Writes an alert as it is now; one that never fired and is over is dropped.
pub(super) fn put(transaction: &Transaction<'_>, stored: &Stored) -> Result<(), StateError> {
    let Stored { alert, held, saved } = stored;
    let (fired, ended, reason) = match alert.phase {
        Phase::Pending => (None, None, None),
        Phase::Firing { since } => (Some(since), None, None),
        Phase::Resolved { since, at, reason } => (Some(since), Some(at), Some(reason.name())),
        Phase::Dropped { .. } => {
            transaction.execute("DELETE FROM alert WHERE id = ?1", [alert.id.0.cast_signed()])?;
            return Ok(());
        }
    };
    let start_ticks = match alert.subject {
        Subject::Process { start_ticks, .. } => start_ticks.cast_signed(),
        _ => 0,
    };
    transaction.execute(
        "INSERT INTO alert (id, fingerprint, kind, limit_name, limit_json, scope, subject, start_ticks, phase, reason,
             began_ns, fired_ns, ended_ns, latest, worst, told, beyond_ns, between_ns, cleared_ns, saved_ns)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
         ON CONFLICT (id) DO UPDATE SET limit_json = excluded.limit_json, phase = excluded.phase,
             reason = excluded.reason, fired_ns = excluded.fired_ns, ended_ns = excluded.ended_ns,
             latest = excluded.latest, worst = excluded.worst, told = excluded.told, beyond_ns = excluded.beyond_ns,
             between_ns = excluded.between_ns, cleared_ns = excluded.cleared_ns, saved_ns = excluded.saved_ns",
        params![
            alert.id.0.cast_signed(),
            alert.fingerprint.0.cast_signed(),
            alert.kind.name(),
            alert.limit.name,
            wire::write_limit(&alert.limit)?,
            alert.subject.scope().name(),
            alert.subject.to_string(),
            start_ticks,
            alert.phase.name(),
            reason,
            to_ns(alert.began),
            fired.map(to_ns),
            ended.map(to_ns),
            alert.latest,
            alert.worst,
            alert.told,
            span_to_ns(held.beyond),
            span_to_ns(held.between),
            held.cleared.map(span_to_ns),
            to_ns(*saved),
        ],
    )?;
    Ok(())
}

/// Drops alerts that are over and too old, or too many.
pub(super) fn prune(transaction: &Transaction<'_>, bounds: &Bounds, now: SystemTime) -> Result<(), StateError> {
    let oldest = now.checked_sub(bounds.history).map_or(0, to_ns);
    transaction.execute("DELETE FROM alert WHERE ended_ns < ?1", [oldest])?;
    transaction.execute(
        "DELETE FROM alert WHERE number IN (
             SELECT number FROM alert WHERE ended_ns IS NOT NULL ORDER BY number DESC LIMIT -1 OFFSET ?1)",
        [i64::try_from(bounds.max_history).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

fn span_to_ns(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

fn span_from_ns(ns: i64) -> std::time::Duration {
    std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

fn read(row: &Row<'_>) -> Result<Stored, StateError> {
    let limit = wire::read_limit(row.get("limit_name")?, &row.get::<_, String>("limit_json")?)?;
    let kind: String = row.get("kind")?;
    let kind = [AlertKind::Limit, AlertKind::NoData]
        .into_iter()
        .find(|known| known.name() == kind)
        .ok_or_else(|| bad("a kind", &kind))?;
    Ok(Stored {
        alert: Alert {
            id: AlertId(row.get::<_, i64>("id")?.cast_unsigned()),
            fingerprint: Fingerprint(row.get::<_, i64>("fingerprint")?.cast_unsigned()),
            kind,
            limit: Arc::new(limit),
            subject: read_subject(row)?,
            began: from_ns(row.get("began_ns")?),
            phase: read_phase(row)?,
            latest: row.get("latest")?,
            worst: row.get("worst")?,
            told: row.get("told")?,
        },
        held: Held {
            beyond: span_from_ns(row.get("beyond_ns")?),
            between: span_from_ns(row.get("between_ns")?),
            cleared: row.get::<_, Option<i64>>("cleared_ns")?.map(span_from_ns),
        },
        saved: from_ns(row.get("saved_ns")?),
    })
}

fn read_phase(row: &Row<'_>) -> Result<Phase, StateError> {
    let fired: Option<i64> = row.get("fired_ns")?;
    let ended: Option<i64> = row.get("ended_ns")?;
    let reason: Option<String> = row.get("reason")?;
    match (fired.map(from_ns), ended.map(from_ns)) {
        (None, None) => Ok(Phase::Pending),
        (Some(since), None) => Ok(Phase::Firing { since }),
        (Some(since), Some(at)) => {
            let reason = reason.unwrap_or_default();
            let known = EndReason::ALL.into_iter().find(|known| known.name() == reason);
            let reason = known.ok_or_else(|| bad("a reason", &reason))?;
            Ok(Phase::Resolved { since, at, reason })
        }
        (None, Some(_)) => Err(bad("a phase", "over without firing")),
    }
}

fn read_subject(row: &Row<'_>) -> Result<Subject, StateError> {
    let (scope, name): (String, String) = (row.get("scope")?, row.get("subject")?);
    let start_ticks = row.get::<_, i64>("start_ticks")?.cast_unsigned();
    wire::read_subject(&scope, name, start_ticks)
}

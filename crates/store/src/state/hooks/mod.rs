//! Runs of hooks: those that are under way or have settings to be put back, and those that were.

mod ends;
mod shapes;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use profiler_hooks::{Outcome, Run, RunId};
use rusqlite::{Row, Transaction, named_params, params};

use super::{Condition, StateError, database::Database, to_ns};

/// Most runs in one answer.
const MAX_ANSWER: usize = 1001;

/// How many runs are kept. Those that are under way, have settings to be put back, or are of an alert that has not ended are
/// kept whatever their number and age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBounds {
    /// Age at which they are dropped.
    pub history: Duration,
    /// Runs that were refused; the oldest are dropped first, and take no room from the others.
    pub max_refused: usize,
    /// All others.
    pub max_others: usize,
}

/// Which runs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Only those of this hook.
    pub hook: Option<String>,
    /// Those that were refused, too.
    pub include_refused: bool,
    /// At most so many, and never more than a thousand and one; all that fit for 0.
    pub most: usize,
}

/// Runs of hooks, in the same file as the alerts, by a connection of its own: hooks have a thread of their own.
#[derive(Debug)]
pub struct HookRuns {
    database: Database,
    bounds: RunBounds,
}

impl HookRuns {
    /// Opens the file in a directory, or makes it. Where that cannot be done, everything is in memory.
    ///
    /// # Errors
    /// Not even memory can be used.
    pub fn open(directory: &Path, bounds: RunBounds) -> Result<Self, StateError> {
        Ok(Self {
            database: Database::open(directory)?,
            bounds,
        })
    }

    /// How well runs are kept.
    pub fn condition(&self) -> Condition {
        self.database.condition(0)
    }

    /// Keeps a run as it is now. When this returns, it outlives the daemon.
    ///
    /// # Errors
    /// It cannot be kept; or another run of the same hook is kept for the same alert.
    pub fn keep(&mut self, run: &Run, now: SystemTime) -> Result<(), StateError> {
        let json = wire::write_run(run)?;
        let bounds = self.bounds;
        self.database.write(|transaction| {
            put(transaction, run, &json, now)?;
            prune(transaction, &bounds, now)
        })
    }

    /// What an engine is to take up at its start, the oldest first: all that is under way, has settings to be put back or is
    /// of an alert that has not ended, and all that began since then. Rows that cannot be understood are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn to_restore(&self, since: SystemTime) -> Result<Vec<Run>, StateError> {
        let mut statement = self.database.connection().prepare(
            "SELECT id, run FROM hook_run
             WHERE ended_ns IS NULL OR owed OR began_ns >= ?1
                OR alert IN (SELECT id FROM alert WHERE ended_ns IS NULL)
             ORDER BY id",
        )?;
        let mut rows = statement.query([to_ns(since)])?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next()? {
            runs.extend(read(row)?);
        }
        Ok(runs)
    }

    /// Runs, the newest first. Rows that cannot be understood are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn runs(&self, query: &RunQuery) -> Result<Vec<Run>, StateError> {
        let most = match query.most {
            0 => MAX_ANSWER,
            most => most.min(MAX_ANSWER),
        };
        let mut statement = self.database.connection().prepare(
            "SELECT id, run FROM hook_run
             WHERE (:hook IS NULL OR hook = :hook) AND (:include_refused OR NOT refused)
             ORDER BY id DESC LIMIT :most",
        )?;
        let mut rows = statement.query(named_params! {
            ":hook": query.hook,
            ":include_refused": query.include_refused,
            ":most": i64::try_from(most).unwrap_or(i64::MAX),
        })?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next()? {
            runs.extend(read(row)?);
        }
        Ok(runs)
    }

    /// One run.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn run(&self, id: RunId) -> Result<Option<Run>, StateError> {
        let mut statement = self
            .database
            .connection()
            .prepare("SELECT id, run FROM hook_run WHERE id = ?1")?;
        let mut rows = statement.query([id.0.cast_signed()])?;
        match rows.next()? {
            Some(row) => read(row),
            None => Ok(None),
        }
    }
}

fn put(transaction: &Transaction<'_>, run: &Run, json: &str, now: SystemTime) -> Result<(), StateError> {
    let began = run.began().map_or(now, |moment| moment.time);
    let ended = run.outcome().map(|_| run.ended().map_or(now, |moment| moment.time));
    transaction.execute(
        "INSERT INTO hook_run (id, hook, alert, refused, owed, began_ns, ended_ns, run)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET refused = excluded.refused, owed = excluded.owed, ended_ns = excluded.ended_ns,
             run = excluded.run",
        params![
            run.id.0.cast_signed(),
            &*run.hook,
            run.cause.alert().map(|alert| alert.0.cast_signed()),
            matches!(run.outcome(), Some(Outcome::Refused(_))),
            run.undo.is_owed(),
            to_ns(began),
            ended.map(to_ns),
            json,
        ],
    )?;
    Ok(())
}

/// Drops runs that are over and too old, or too many.
fn prune(transaction: &Transaction<'_>, bounds: &RunBounds, now: SystemTime) -> Result<(), StateError> {
    const IS_DONE: &str = "ended_ns IS NOT NULL AND NOT owed
        AND (alert IS NULL OR alert NOT IN (SELECT id FROM alert WHERE ended_ns IS NULL))";
    let oldest = now.checked_sub(bounds.history).map_or(0, to_ns);
    transaction.execute(
        &format!("DELETE FROM hook_run WHERE ended_ns < ?1 AND {IS_DONE}"),
        [oldest],
    )?;
    for (refused, most) in [(true, bounds.max_refused), (false, bounds.max_others)] {
        transaction.execute(
            &format!(
                "DELETE FROM hook_run WHERE id IN (
                     SELECT id FROM hook_run WHERE refused = ?1 AND {IS_DONE} ORDER BY id DESC LIMIT -1 OFFSET ?2)"
            ),
            params![refused, i64::try_from(most).unwrap_or(i64::MAX)],
        )?;
    }
    Ok(())
}

/// A run, unless no version writes such a row.
fn read(row: &Row<'_>) -> Result<Option<Run>, StateError> {
    let id = RunId(row.get::<_, i64>("id")?.cast_unsigned());
    match wire::read_run(id, &row.get::<_, String>("run")?) {
        Ok(run) => Ok(Some(run)),
        Err(StateError::BadRow { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

//! The layout of the file, and how older layouts become the present one.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::StateError;

/// What leads from each layout to the next; the first makes the tables of an empty file. Only ever added to.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE alert (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        id           INTEGER NOT NULL UNIQUE,
        fingerprint  INTEGER NOT NULL,
        kind         TEXT NOT NULL,
        limit_name   TEXT NOT NULL,
        limit_json   TEXT NOT NULL,
        scope        TEXT NOT NULL,
        subject      TEXT NOT NULL,
        start_ticks  INTEGER NOT NULL,
        phase        TEXT NOT NULL,
        reason       TEXT,
        began_ns     INTEGER NOT NULL,
        fired_ns     INTEGER,
        ended_ns     INTEGER,
        latest       REAL,
        worst        REAL,
        told         INTEGER NOT NULL,
        beyond_ns    INTEGER NOT NULL,
        between_ns   INTEGER NOT NULL,
        cleared_ns   INTEGER,
        saved_ns     INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX alert_by_end ON alert (ended_ns);
    CREATE TABLE silence (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        matchers     TEXT NOT NULL,
        made_ns      INTEGER NOT NULL,
        until_ns     INTEGER NOT NULL,
        who          TEXT NOT NULL,
        comment      TEXT NOT NULL
    ) STRICT;
    CREATE TABLE evidence (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        alert        INTEGER NOT NULL REFERENCES alert (id) ON DELETE CASCADE,
        kind         TEXT NOT NULL,
        encoding     TEXT NOT NULL,
        made_ns      INTEGER NOT NULL,
        bytes        INTEGER NOT NULL,
        body         BLOB NOT NULL,
        UNIQUE (alert, kind)
    ) STRICT;
    CREATE TABLE notification (
        id           INTEGER PRIMARY KEY,
        sink         TEXT NOT NULL,
        payload      BLOB NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE hook_run (
        id           INTEGER PRIMARY KEY,
        hook         TEXT NOT NULL,
        alert        INTEGER,
        refused      INTEGER NOT NULL,
        owed         INTEGER NOT NULL,
        began_ns     INTEGER NOT NULL,
        ended_ns     INTEGER,
        run          TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX hook_run_by_alert ON hook_run (hook, alert) WHERE alert IS NOT NULL;
    CREATE INDEX hook_run_by_end ON hook_run (ended_ns);
",
];

/// Brings the file to the present layout.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StateError> {
    let version = version(connection)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let done = match usize::try_from(version) {
        Ok(done) if done <= MIGRATIONS.len() => done,
        _ => return Err(StateError::Newer { version }),
    };
    if version == known {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

/// Writes what is there already, to see whether it can be.
pub(super) fn touch(transaction: &Transaction<'_>) -> Result<(), rusqlite::Error> {
    let version = version(transaction)?;
    transaction.pragma_update(None, "user_version", version)
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

//! The file: opened, judged, and set aside.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{StateError, schema};

/// What the file is called.
pub(super) const NAME: &str = "state.db";
/// For how long a write waits for somebody who looks at the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Unused room that is given back.
const WORTH_SHRINKING_BYTES: i64 = 8 << 20;

/// How every connection works. Commits survive the end of the daemon at any moment; a loss of power may take the last of
/// them. Little is cached, because little is read.
const SETTINGS: &str = "
    PRAGMA foreign_keys = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;
    PRAGMA cache_size = -1024;
    PRAGMA synchronous = NORMAL;
    PRAGMA journal_size_limit = 4194304;
";

/// Opens the file, which is made if it is not there, and brings it to the present layout.
pub(super) fn open(path: &Path) -> Result<Connection, StateError> {
    create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(SETTINGS)?;
    check(&connection)?;
    // On a file system that is full or can only be read the file stays in the mode that it has.
    let _mode = connection.pragma_update(None, "journal_mode", "WAL");
    schema::migrate(&mut connection)?;
    shrink(&connection)?;
    Ok(connection)
}

/// Gives room back that is no longer needed, once it is worth it. Pages in between are used again.
fn shrink(connection: &Connection) -> Result<(), StateError> {
    let count = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let (unused, all) = (count("PRAGMA freelist_count")?, count("PRAGMA page_count")?);
    let unused_bytes = unused.saturating_mul(count("PRAGMA page_size")?);
    if unused > all / 2 && unused_bytes > WORTH_SHRINKING_BYTES {
        // It takes room for a copy. Where there is none, the file stays as large as it is.
        let _shrunk = connection.execute_batch("VACUUM");
    }
    Ok(())
}

/// The same in memory.
pub(super) fn in_memory() -> Result<Connection, StateError> {
    let mut connection = Connection::open_in_memory()?;
    connection.execute_batch(SETTINGS)?;
    schema::migrate(&mut connection)?;
    Ok(connection)
}

/// Makes an empty file that only its owner can read, in a directory that only its owner can enter, which is made if need be:
/// what ran on a host is not everybody's business.
fn create(path: &Path) -> Result<(), StateError> {
    let io = |source: io::Error| StateError::Io {
        path: path.to_path_buf(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => {
            return Err(StateError::NotAFile {
                path: path.to_path_buf(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(io)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map(drop).map_err(io)
}

/// Reads the whole file once: better now than in the middle of an alert.
fn check(connection: &Connection) -> Result<(), StateError> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" {
        Ok(())
    } else {
        Err(StateError::Damaged { finding })
    }
}

/// Renames the file and what belongs to it. One is kept: the one before it is overwritten.
pub(super) fn set_aside(path: &Path, error: &StateError) -> Result<PathBuf, StateError> {
    let suffix = match error {
        StateError::Newer { .. } => ".newer",
        _ => ".damaged",
    };
    let aside = with_suffix(path, suffix);
    for part in ["", "-wal"] {
        let (from, to) = (with_suffix(path, part), with_suffix(&aside, part));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !part.is_empty() => {
                // An older log must not be taken for one of this file.
                remove(&to)?;
            }
            renamed => renamed.map_err(|source| StateError::Io { path: from, source })?,
        }
    }
    remove(&with_suffix(path, "-shm"))?;
    Ok(aside)
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

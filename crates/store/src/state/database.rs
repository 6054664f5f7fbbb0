//! A connection to the file, or to memory in its place, and how well it works.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{Condition, StateError, file, schema};

/// A connection to the file. There may be several; each sees when another has put a new file in the place of the old.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    /// The file and its device and number; none where everything is in memory.
    file: Option<(PathBuf, Identity)>,
    in_memory: Option<String>,
    set_aside: Option<(PathBuf, String)>,
    failing: Option<String>,
}

/// Device and number of a file; none of one that is not there.
type Identity = Option<(u64, u64)>;

fn identity(path: &Path) -> Identity {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Database {
    /// Opens the file in a directory, or makes it. Where that cannot be done, everything is in memory.
    pub(super) fn open(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(file::NAME);
        let mut database = match open_or_make(&path) {
            Ok((connection, set_aside)) => Self {
                connection,
                set_aside,
                file: Some((path.clone(), identity(&path))),
                in_memory: None,
                failing: None,
            },
            Err(error) => Self {
                connection: file::in_memory()?,
                set_aside: None,
                file: None,
                in_memory: Some(error.to_string()),
                failing: None,
            },
        };
        // What cannot be written is known before the first alert.
        let _told_by_the_condition = database.write(|transaction| Ok(schema::touch(transaction)?));
        Ok(database)
    }

    /// To read from.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How well things are kept, if so many changes wait.
    pub(super) fn condition(&self, waiting: usize) -> Condition {
        if let Some(reason) = self.in_memory.clone() {
            return Condition::InMemory { reason };
        }
        if let Some(reason) = self.failing.clone() {
            return Condition::Waiting { reason, waiting };
        }
        match self.set_aside.clone() {
            Some((set_aside, reason)) => Condition::Renewed { set_aside, reason },
            None => Condition::Kept,
        }
    }

    /// Writes in one piece. A file that turns out to be unreadable is set aside, and the new one is written.
    pub(super) fn write<T>(
        &mut self,
        write: impl Fn(&Transaction<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        if self.is_replaced() {
            self.renew(None)?;
        }
        let written = match attempt(&mut self.connection, &write) {
            Err(error) if error.means_unreadable() && self.file.is_some() => {
                self.renew(Some(&error))?;
                attempt(&mut self.connection, &write)
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

    /// Whether the file that was opened is no longer the one that has its name.
    fn is_replaced(&self) -> bool {
        let Some((path, opened)) = &self.file else { return false };
        identity(path) != *opened
    }

    /// Opens the file anew, after setting it aside if it is unreadable and nobody has done so yet.
    fn renew(&mut self, unreadable: Option<&StateError>) -> Result<(), StateError> {
        let unreadable = unreadable.filter(|_| !self.is_replaced());
        let Some((path, _)) = self.file.take() else {
            return Ok(());
        };
        // The old file must be closed before it is moved.
        self.connection = file::in_memory()?;
        let opened = match unreadable {
            Some(error) => make_anew(&path, error),
            None => open_or_make(&path),
        };
        match opened {
            Ok((connection, set_aside)) => {
                self.connection = connection;
                self.set_aside = set_aside.or(self.set_aside.take());
                let identity = identity(&path);
                self.file = Some((path, identity));
            }
            Err(error) => self.in_memory = Some(error.to_string()),
        }
        Ok(())
    }
}

/// A connection, and what was set aside for it, with the reason.
type Opened = (Connection, Option<(PathBuf, String)>);

/// Opens the file. One that is unreadable is set aside for a new one.
fn open_or_make(path: &Path) -> Result<Opened, StateError> {
    match file::open(path) {
        Ok(connection) => Ok((connection, None)),
        Err(error) if error.means_unreadable() => make_anew(path, &error),
        Err(error) => Err(error),
    }
}

fn make_anew(path: &Path, unreadable: &StateError) -> Result<Opened, StateError> {
    let aside = file::set_aside(path, unreadable)?;
    Ok((file::open(path)?, Some((aside, unreadable.to_string()))))
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

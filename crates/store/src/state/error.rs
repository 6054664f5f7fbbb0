//! What can go wrong with the file.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite refused.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Something else than a file has its name.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// Its pages contradict each other.
    #[error("it is damaged: {finding}")]
    Damaged {
        /// The first thing that was found.
        finding: String,
    },
    /// A later version of the daemon wrote it.
    #[error("it was written by a later version (layout {version})")]
    Newer {
        /// The version of its layout.
        version: i64,
    },
    /// A row holds what no version writes.
    #[error("a row holds {what} that is none: {value:?}")]
    BadRow {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// It is larger than it may be.
    #[error("{bytes} bytes are more than the {most} that there is room for")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The room.
        most: u64,
    },
    /// There are too many already.
    #[error("{most} are kept already")]
    TooMany {
        /// How many are kept at most.
        most: i64,
    },
    /// The alert is not kept.
    #[error("there is no such alert")]
    NoSuchAlert,
}

impl StateError {
    /// Whether the file cannot be read, now or later, so that a new one must take its place.
    pub(super) fn means_unreadable(&self) -> bool {
        match self {
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            Self::Damaged { .. } | Self::Newer { .. } => true,
            _ => false,
        }
    }
}

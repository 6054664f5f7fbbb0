//! What the sampling loop says of a process.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::kernel::records::Pid;

/// What is known of one process. Its strings come from the process: escape them for every output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSummary {
    /// Thread group id.
    pub pid: Pid,
    /// When it started.
    pub start: SystemTime,
    /// Its name.
    pub name: Arc<str>,
    /// Path of its program as the process sees it; empty if it cannot be read.
    pub executable: String,
    /// Its arguments. Only for callers that may profile.
    pub command_line: Vec<String>,
    /// What it runs.
    pub runtime: Runtime,
    /// Service it belongs to; empty if none.
    pub service: Arc<str>,
    /// Whether it is watched.
    pub watch_state: WatchState,
    /// Why it is watched (`discovered`, `requested`) or why not.
    pub watch_reason: String,
    /// Real user id.
    pub user_id: u32,
    /// Executable mappings known.
    pub mappings: u32,
    /// Those of them that the walker has rows for.
    pub mappings_with_rows: u32,
    /// Samples since it is watched.
    pub samples: u64,
    /// Those with a proven root.
    pub rooted_samples: u64,
    /// Those with Python frames.
    pub python_samples: u64,
    /// The Python interpreter that it runs.
    pub interpreter: Option<InterpreterSummary>,
    /// Parts of it that cannot be walked or named, with their reasons.
    pub limitations: Vec<String>,
}

/// A watched process, as much of it as readings need. Its strings come from the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Thread group id.
    pub pid: Pid,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    /// When it executed its program, since boot; none if that was not seen, or if it only forked.
    pub executed: Option<Duration>,
    /// Its name.
    pub name: Arc<str>,
    /// Service it belongs to; empty if none, or not known yet.
    pub service: Arc<str>,
}

/// What is known of the Python interpreter of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterSummary {
    /// Base name of the object that holds it.
    pub object: Arc<str>,
    /// Its version, if the object tells one that is known.
    pub version: Option<String>,
    /// Built without a global lock.
    pub free_threaded: bool,
    /// Whether its stacks are walked.
    pub state: InterpreterState,
    /// Why they are not (yet); empty if they are.
    pub reason: String,
}

/// Whether the Python stacks of a process are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterpreterState {
    /// Not yet: its layout is held against the process.
    Looking,
    /// They are.
    Active,
    /// They are not.
    Refused,
}

/// What a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Native code of no known origin.
    Native,
    /// A Rust program.
    Rust,
    /// A CPython interpreter.
    Python,
}

/// Whether a process is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchState {
    /// It is not.
    NotWatched,
    /// It is, and rows are still being loaded.
    Pending,
    /// It is.
    Watched,
}

//! What is known of one program run by one process.
//!
//! A process that executes another program gets a new [`Image`] and leaves the old one behind for as long as samples of it
//! may still come; so does an id that is given to another process. An image therefore has one set of mappings over
//! time, one name and one start, and what a sample belongs to follows from its process and its time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use profiler_profile::ProcessLabel;
use profiler_unwinding::ContentId;

use super::{
    clock::Clock, discovery::Marks, jobs::Identity, mappings::MappingHistory, python::PythonState,
    verification::WrittenLists, walker_tables::WalkerMapping,
};
use crate::{
    command::{Runtime, WatchId},
    kernel::records::Pid,
};

/// Names an [`Image`] for as long as the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u64);

/// Samples of a process, counted across the programs it runs.
#[derive(Debug, Default)]
pub struct Counts {
    samples: AtomicU64,
    rooted: AtomicU64,
    python: AtomicU64,
}

impl Counts {
    pub(super) fn add(&self, rooted: bool) {
        self.samples.fetch_add(1, Ordering::Relaxed);
        self.rooted.fetch_add(u64::from(rooted), Ordering::Relaxed);
    }

    /// Notes that the sample had Python frames.
    pub(crate) fn add_python(&self) {
        self.python.fetch_add(1, Ordering::Relaxed);
    }

    /// Samples with Python frames.
    pub(super) fn python(&self) -> u64 {
        self.python.load(Ordering::Relaxed)
    }

    /// Samples, and those of them with a proven root.
    pub fn get(&self) -> (u64, u64) {
        (
            self.samples.load(Ordering::Relaxed),
            self.rooted.load(Ordering::Relaxed),
        )
    }
}

/// Why an image is watched, or why it is not although it should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// The configuration or its content says so.
    pub(super) discovered: bool,
    /// Open streams that ask for it.
    pub(super) streams: Vec<WatchId>,
    /// Until when a request without a stream asks for it.
    pub(super) lease: Option<Instant>,
    /// Why it cannot be watched, and when to try again.
    pub(super) refused: Option<Refusal>,
    /// Why it is not watched unless it is asked for: the daemon would cost too much.
    pub(super) left_out: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) retry_ns: u64,
    /// It is for the number of watched processes.
    pub(super) too_many: bool,
}

impl Watch {
    pub(super) fn is_requested(&self) -> bool {
        !self.streams.is_empty() || self.lease.is_some()
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.discovered && self.left_out.is_none() || self.is_requested()
    }
}

/// What has been done to find out what an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identification {
    /// Nothing.
    NotAsked,
    /// The builder is at it.
    Asked,
    /// It is known.
    Known(Arc<Identity>),
    /// It cannot be known.
    Failed(String),
}

/// The file of a program as its first mapping shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) device_inode: (u64, u64),
    pub(super) path: Box<[u8]>,
}

/// What the walker has of an image.
#[derive(Clone, Debug, Default)]
pub(super) struct WalkerSide {
    /// It may have an entry for the process: written, or made by the kernel at a fork.
    pub(super) has_entry: bool,
    /// The entry must be written even if the mappings seem to be in it already.
    pub(super) must_write: bool,
    /// The mappings as they were last written.
    pub(super) written: Vec<WalkerMapping>,
    /// Contents whose tables those use.
    pub(super) tables: Vec<ContentId>,
    /// Some mapping waits for the builder.
    pub(super) is_waiting: bool,
}

/// One program run by one process.
#[derive(Debug)]
pub struct Image {
    pub(super) id: ImageId,
    pub(super) pid: Pid,
    /// When it began: `CLOCK_MONOTONIC` in nanoseconds, 0 if before the daemon looked.
    pub(super) from_ns: u64,
    /// When it ended; [`u64::MAX`] while it runs.
    pub(super) to_ns: u64,
    /// When the daemon last read its mappings from `/proc`: older records tell nothing new.
    pub(super) scanned_ns: u64,
    /// When the process started.
    pub(super) start: SystemTime,
    /// The same in ticks since boot, once read.
    pub(super) start_ticks: Option<u64>,
    /// When it executed its program, since boot; none if that was not seen, or if it only forked.
    pub(super) executed: Option<Duration>,
    pub(super) name: Arc<str>,
    /// Its program, if it was seen to be executed: the first thing that is mapped then.
    pub(super) program: Option<Program>,
    /// What its program is, if that is known before the image itself is identified.
    pub(super) marks: Option<Marks>,
    pub(super) identification: Identification,
    /// Times that it was looked at again for an interpreter that it may have mapped.
    pub(super) interpreter_looks: u8,
    /// Its mappings are followed.
    pub(super) tracked: bool,
    /// The list of those that it had before is still being read.
    pub(super) awaits_list: bool,
    /// Nobody knows yet whether it is to be watched.
    pub(super) undecided: bool,
    /// Shared with the child of a fork until one of them changes.
    pub(super) mappings: Arc<MappingHistory>,
    /// It was forked, or has forked: pages may be shared until one side writes to them.
    pub(super) shares_pages: bool,
    /// The list of its mappings was too long to be read whole.
    pub(super) maps_truncated: bool,
    pub(super) watch: Watch,
    pub(super) walker: WalkerSide,
    pub(super) python: PythonState,
    pub(super) lists: WrittenLists,
    pub(crate) counts: Arc<Counts>,
    /// The walker had an entry for it that has been removed: samples of it may still come.
    pub(super) was_in_walker: bool,
    /// Samples of this very image were seen.
    pub(super) was_sampled: bool,
    /// Its first thread has ended and others may run.
    pub(super) leader_ended: bool,
    /// It is known from its first moment on, and has never had another thread.
    pub(super) is_alone: bool,
}

impl Image {
    /// Whether the walker knows all of its mappings with their rows.
    pub(super) fn is_whole(&self) -> bool {
        self.walker.has_entry && !self.walker.is_waiting && !self.walker.must_write
    }

    pub(super) fn new(id: ImageId, pid: Pid, from_ns: u64, start: SystemTime, name: &[u8]) -> Self {
        Self {
            id,
            pid,
            from_ns,
            to_ns: u64::MAX,
            scanned_ns: 0,
            start,
            start_ticks: None,
            executed: None,
            name: String::from_utf8_lossy(name).into(),
            program: None,
            marks: None,
            identification: Identification::NotAsked,
            interpreter_looks: 0,
            tracked: false,
            awaits_list: false,
            undecided: true,
            mappings: Arc::default(),
            shares_pages: false,
            maps_truncated: false,
            watch: Watch::default(),
            walker: WalkerSide::default(),
            python: PythonState::default(),
            lists: WrittenLists::default(),
            counts: Arc::default(),
            was_in_walker: false,
            was_sampled: false,
            leader_ended: false,
            is_alone: false,
        }
    }

    /// Whether it runs, as far as is known.
    pub fn is_running(&self) -> bool {
        self.to_ns == u64::MAX
    }

    /// Whether samples of it may still come.
    pub(super) fn may_be_sampled(&self) -> bool {
        self.walker.has_entry || self.was_in_walker || self.was_sampled
    }

    /// Whether it ran at a time.
    pub(super) fn ran_at(&self, time_ns: u64) -> bool {
        (self.from_ns..self.to_ns).contains(&time_ns)
    }

    /// Its mappings over time.
    pub fn mappings(&self) -> &MappingHistory {
        &self.mappings
    }

    /// What profiles show of it.
    pub fn label(&self) -> ProcessLabel {
        let service = match self.identity() {
            Some(identity) => Arc::clone(&identity.service),
            None => Arc::from(""),
        };
        ProcessLabel {
            pid: self.pid.0,
            start: self.start,
            name: Arc::clone(&self.name),
            service,
        }
    }

    /// Whether it was forked, or has forked, since it executed its program: a write to a page that is there already may then
    /// copy it.
    pub fn shares_pages(&self) -> bool {
        self.shares_pages
    }

    /// When the process started, in ticks since boot, if it has been read.
    pub fn start_ticks(&self) -> Option<u64> {
        self.start_ticks
    }

    /// Takes over when the process started, as `/proc` has it.
    pub(super) fn set_start(&mut self, ticks: u64, clock: &Clock) {
        // What profiles show of a process must not change once they show it.
        if self.start_ticks.is_none() && !self.was_sampled {
            self.start = clock.of_ticks(ticks);
        }
        self.start_ticks = Some(ticks);
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.identification {
            Identification::Known(identity) => Some(identity),
            _ => None,
        }
    }

    /// What it is by its content; `None` if that is not known.
    pub(super) fn known_marks(&self) -> Option<Marks> {
        self.identity().map(|identity| identity.marks).or(self.marks)
    }

    pub(super) fn runtime(&self) -> Runtime {
        match self.known_marks() {
            // An interpreter runs Python, whatever its extensions are written in.
            Some(Marks { python: true, .. }) => Runtime::Python,
            Some(Marks { rust: true, .. }) => Runtime::Rust,
            _ => Runtime::Native,
        }
    }

    /// Path of its program as the process sees it, if known.
    pub(super) fn executable(&self) -> Option<&[u8]> {
        match self.identity() {
            Some(identity) => Some(&identity.executable),
            None => self.program.as_ref().map(|program| &*program.path),
        }
    }
}

/// Why the owner of processes could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The threads that read objects could not be started.
    #[error("cannot start the threads that read objects: {reason}")]
    Thread {
        /// What the kernel said.
        reason: io::Error,
    },
}

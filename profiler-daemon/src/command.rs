//! What the API may ask of the sampling loop: one closed enum, over one bounded channel.
//!
//! In: requests of the API, each with the place for its reply. Out: plain domain values. The loop owns all state of
//! processes and windows and answers between two turns, so it must never be made to wait: the sender never blocks,
//! and a full channel is an error that is counted.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use profiler_config::Targets;
use tokio::sync::{mpsc, oneshot};

use crate::{
    budget::Restraint,
    kernel::{FaultCounts, records::Pid},
    waker::Waker,
};

mod mapped;
mod summary;

pub use mapped::{MappedError, MappedStatus};
pub use summary::{InterpreterState, InterpreterSummary, Member, ProcessSummary, Runtime, WatchState};

/// Commands that may wait for the loop at one time.
pub const COMMAND_QUEUE: usize = 256;

/// Where the answer to a command goes. The asker may have left: an answer that nobody takes is dropped.
pub type Reply<T> = oneshot::Sender<T>;

/// What the API may ask of the sampling loop.
#[derive(Debug)]
pub enum Command {
    /// End the current window now, name it and store it.
    Flush {
        /// Answered when the window can be queried.
        reply: Reply<Result<(), FlushError>>,
    },
    /// Describe all watched processes, or one that need not be watched.
    ListProcesses {
        /// Only this one.
        pid: Option<Pid>,
        /// The processes by ascending pid.
        reply: Reply<Result<Vec<ProcessSummary>, ProcessError>>,
    },
    /// Name the watched processes. Nothing is read for it, so it may be asked every second.
    ListMembers {
        /// Those whose start is known.
        reply: Reply<Vec<Member>>,
    },
    /// Watch a process.
    Watch {
        /// The process.
        pid: Pid,
        /// How long.
        until: Lease,
        /// What was watched before.
        reply: Reply<Result<WatchStart, WatchError>>,
    },
    /// The stream with this id has ended, and its watch with it. An id that is not known is no error: the watch may have
    /// been refused, or its process may be gone.
    EndWatch {
        /// The id given with [`Lease::Stream`].
        id: WatchId,
    },
    /// Take the calls by which the process of a stream asks for memory, until the stream ends.
    TakeMapped {
        /// The id given with [`Lease::Stream`].
        id: WatchId,
        /// The process.
        pid: Pid,
        /// Answered when they are taken.
        reply: Reply<Result<(), MappedError>>,
    },
    /// How far the watch of a stream has come.
    WatchProgress {
        /// The id given with [`Lease::Stream`].
        id: WatchId,
        /// `None` if no such watch is known.
        reply: Reply<Option<WatchProgress>>,
    },
    /// Take these settings from now on.
    Configure {
        /// Which processes are watched.
        targets: Targets,
        /// Length of the windows after the current one.
        window: Duration,
        /// Samples a second on each CPU.
        sample_hz: u32,
        /// Most bytes of all maps and programs in the kernel.
        max_kernel_bytes: u64,
        /// Answered when it is done.
        reply: Reply<()>,
    },
    /// Do without this from now on, and with everything else.
    Restrain(Restraint),
    /// Report on sampling.
    Status {
        /// The report.
        reply: Reply<EngineStatus>,
    },
}

/// Names the watch of one stream. Chosen by the asker, so that it can end a watch whose answer it never saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// How long a watch lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Until [`Command::EndWatch`] with this id.
    Stream(WatchId),
    /// Until this time. A process has one such lease; a later end prolongs it and an earlier one changes nothing.
    Until(Instant),
}

/// A watch has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchStart {
    /// The process was watched already.
    pub already_watched: bool,
}

/// How far the watch of a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchProgress {
    /// Samples of the process since this watch began.
    pub samples: u64,
    /// Those with a proven root.
    pub rooted_samples: u64,
    /// The process has exited: the counts are final.
    pub exited: bool,
}

/// Why a process cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// It does not exist, or is a zombie.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The id asked for.
        pid: Pid,
    },
    /// It runs no user code.
    #[error("process {pid} is a kernel thread: it has no user code to profile")]
    KernelThread {
        /// The id asked for.
        pid: Pid,
    },
    /// Its code is of another word size than the walker's.
    #[error("process {pid} is a 32-bit program; only 64-bit programs can be profiled")]
    Compat32 {
        /// The id asked for.
        pid: Pid,
    },
    /// The daemon may not read what it needs.
    #[error("process {pid} cannot be watched: the daemon may not read {}: {reason}", path.display())]
    PermissionDenied {
        /// The id asked for.
        pid: Pid,
        /// What could not be read.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// Sampling is not possible on this host, or not now.
    #[error("sampling is not possible: {reason}")]
    Unsupported {
        /// Why, and what to change where that is known.
        reason: String,
    },
    /// As many processes as allowed are watched.
    #[error("{limit} processes are watched already, as many as targets.max_processes allows")]
    TooManyProcesses {
        /// The limit in force.
        limit: u32,
    },
    /// It is the daemon itself.
    #[error("process {pid} is the profiler itself; targets.watch_self allows to watch it")]
    OwnProcess {
        /// The id asked for.
        pid: Pid,
    },
}

/// Why a process cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// It does not exist.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The id asked for.
        pid: Pid,
    },
    /// The daemon may not read what it needs.
    #[error("process {pid} cannot be described: the daemon may not read {}: {reason}", path.display())]
    PermissionDenied {
        /// The id asked for.
        pid: Pid,
        /// What could not be read.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
}

/// Why a window could not be ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// Nothing is sampled, so no window will ever come.
    #[error("sampling is not possible: {reason}")]
    NotSampling {
        /// Why.
        reason: String,
    },
}

/// What sampling has done since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Samples a second on each CPU as configured; 0 if nothing is sampled.
    pub sample_hz: u32,
    /// Time of a CPU that one sample stands for now: longer than configured while the daemon keeps within its budget.
    pub period: Duration,
    /// Python stacks by why their walk ended.
    pub python_stop_reasons: BTreeMap<String, u64>,
    /// Watched processes that run Python: walked, being looked at, or refused with the reason.
    pub python_processes: BTreeMap<String, u64>,
    /// The loop that drives the walker: `bpf_loop` or `for_each_map_elem`; empty if nothing is sampled.
    pub walker_loop: String,
    /// Runs of the program that perf's timers should have caused.
    pub expected_runs: u64,
    /// Runs of the program.
    pub runs: u64,
    /// What became of the runs, by the names of `profiler_common::counters::Counter`.
    pub run_outcomes: BTreeMap<String, u64>,
    /// Everything lost from the kernel to the store, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Lifecycle records received.
    pub lifecycle_records: u64,
    /// Lifecycle records that the kernel dropped.
    pub lifecycle_lost: u64,
    /// Walks of watched processes by the reason they ended.
    pub stop_reasons: BTreeMap<String, u64>,
    /// Ticks of the CPU clocks that never ran the program: throttling, a virtual CPU that stood still. Of the whole host, idle
    /// or not.
    pub missed_ticks: u64,
    /// Processes watched now.
    pub watched_processes: u32,
    /// What the programs for page faults have done.
    pub faults: FaultCounts,
    /// Faults that were delivered and lost before they were named, by reason.
    pub faults_lost: BTreeMap<String, u64>,
    /// What was taken of calls for memory.
    pub mapped: MappedStatus,
}

impl EngineStatus {
    /// Samples a second on each CPU as they are taken now; 0 if nothing is sampled.
    pub fn effective_hz(&self) -> f64 {
        match self.period.as_secs_f64() {
            period if period > 0.0 => period.recip(),
            _ => 0.0,
        }
    }
}

/// Why a command was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The queue is full.
    #[error("the sampling loop is busy: {COMMAND_QUEUE} commands wait already")]
    Busy,
    /// The loop has ended, or dropped the command.
    #[error("the sampling loop has ended")]
    Ended,
}

/// A channel for commands: the askers' end and the loop's end.
pub fn channel() -> (EngineHandle, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
    (
        EngineHandle {
            commands,
            refused: Arc::new(AtomicU64::new(0)),
            waker: None,
        },
        receiver,
    )
}

/// The askers' end of the channel.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    refused: Arc<AtomicU64>,
    waker: Option<Waker>,
}

impl EngineHandle {
    /// The same handle, which wakes the loop for each command; otherwise the loop finds it at its next turn.
    #[must_use]
    pub fn waking(self, waker: Waker) -> Self {
        Self {
            waker: Some(waker),
            ..self
        }
    }

    /// The same handle, which wakes nobody: for questions whose answers may come at the loop's next turn.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self {
            waker: None,
            ..self.clone()
        }
    }

    /// Sends the command that `command` makes of a place for the reply, and waits for the answer.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        self.begin(command)?
            .await
            .map_err(|oneshot::error::RecvError { .. }| EngineError::Ended)
    }

    /// Sends the command, and gives the place where its answer will be.
    pub fn begin<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<oneshot::Receiver<T>, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply))?;
        Ok(answer)
    }

    /// Sends a command that has no answer.
    pub fn tell(&self, command: Command) -> Result<(), EngineError> {
        self.commands
            .try_send(command)
            .map_err(|error| self.count_refusal(&error))?;
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes a place in the queue for a command that must be deliverable later, whatever else waits then.
    pub fn reserve(&self) -> Result<mpsc::OwnedPermit<Command>, EngineError> {
        self.commands
            .clone()
            .try_reserve_owned()
            .map_err(|error| self.count_refusal(&error))
    }

    /// Commands refused because the queue was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn count_refusal<T>(&self, error: &mpsc::error::TrySendError<T>) -> EngineError {
        match error {
            mpsc::error::TrySendError::Full(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                EngineError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => EngineError::Ended,
        }
    }
}

//! The census of a Python heap: objects by type, what differs from the census before, and who holds what is new.
//!
//! In: a process, by request. Out: a [`Taken`], or why there can be none. One thread has one census taken at a time, far from the
//! sampling loop, at a low priority and with pauses. It stops when nobody waits for the answer any more, and is left behind when the
//! kernel does not answer it. The process is not stopped and nothing is written into it; what it has in memory is not trusted.

mod kept;
mod mounts;
mod pace;
mod regions;
mod runs;
mod take;
mod target;
mod waits;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use profiler_census::{Census, Difference, Holders};
use tokio::sync::oneshot;

use self::runs::Runs;
use crate::{command::Reply, health::Health, kernel::records::Pid, processes::scan::ProcFs};

/// Requests that may wait for the one in progress.
const QUEUE: usize = 1;
/// How often the thread looks whether it is to end.
const TURN: Duration = Duration::from_millis(250);
/// Longest wait of a thread for a census: it may be the third in the row, of which each takes less than half a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Time between two looks of such a thread for the answer.
const GLANCE: Duration = Duration::from_millis(50);

/// What is asked for besides the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Compare with the last census of the process.
    pub compare: bool,
    /// And find who holds objects of the types that grew most.
    pub holders: bool,
}

/// A census as it was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The process.
    pub pid: Pid,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    /// Tells the program that it ran from one that it ran before or after an exec.
    pub program: u64,
    /// When the census began.
    pub time: SystemTime,
    /// Version of its interpreter.
    pub python: String,
    /// What was counted.
    pub census: Arc<Census>,
    /// Against the census before, which began at this time; none if there is none of this process, or none was asked for.
    pub difference: Option<(Difference, SystemTime)>,
    /// Who holds new objects of the types that grew most.
    pub holders: Vec<Holders>,
    /// Why it does not show all; empty if it does.
    pub partial: Vec<String>,
    /// What it took.
    pub cost: Cost,
}

/// What a census took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Read of the memory of the process.
    pub memory_bytes: u64,
    /// Read of what the kernel says of its pages.
    pub pagemap_bytes: u64,
    /// From the beginning to the end, pauses included.
    pub duration: Duration,
    /// CPU time.
    pub busy: Duration,
}

/// Why there is no census.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CensusError {
    /// It does not exist, or is a zombie.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The id asked for.
        pid: Pid,
    },
    /// None of its objects is an interpreter.
    #[error("process {pid} runs no Python: nothing that it has mapped defines _PyRuntime")]
    NotPython {
        /// The process.
        pid: Pid,
    },
    /// Its heap is not one that can be counted.
    #[error("the heap of process {pid} cannot be counted: {reason}")]
    Refused {
        /// The process.
        pid: Pid,
        /// Why.
        reason: String,
    },
    /// Nothing is in pools.
    #[error(
        "the heap of process {pid} cannot be counted: it has no pools of Python's own allocator, as with PYTHONMALLOC=malloc"
    )]
    NoPools {
        /// The process.
        pid: Pid,
    },
    /// Its blocks have pads.
    #[error(
        "the heap of process {pid} cannot be counted: its blocks have the pads of Python's debug allocator, as with \
         PYTHONMALLOC=debug, PYTHONDEVMODE or a debug build"
    )]
    Padded {
        /// The process.
        pid: Pid,
    },
    /// The daemon may not read what it needs.
    #[error("the memory of process {pid} cannot be read: {what}: {reason}")]
    Unreadable {
        /// The process.
        pid: Pid,
        /// What could not be opened.
        what: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel was asked for something of it, which never came.
    #[error(
        "the memory of process {pid} cannot be read: for {seconds} s nothing came of what was asked for; it may be of a file system \
         that hangs, or be provided by a program that does not"
    )]
    Hung {
        /// The process.
        pid: Pid,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Too many of those.
    #[error("{count} censuses wait for memory that does not come: no other is taken until one of those processes ends")]
    Stuck {
        /// How many.
        count: usize,
    },
    /// It is gone, or another program runs in it.
    #[error("process {pid} ended, or executed another program, meanwhile")]
    Ended {
        /// The process.
        pid: Pid,
    },
    /// As many as may be are in progress or wait.
    #[error("a census is in progress and another waits already: try again in some seconds")]
    Busy,
    /// Nobody answered in time.
    #[error("the census was not taken within {seconds} s")]
    Late {
        /// The time.
        seconds: u64,
    },
    /// Who asked has left.
    #[error("nobody waits for the census any more")]
    Unwanted,
    /// The daemon ends.
    #[error("the daemon is stopping")]
    Stopping,
}

#[derive(Debug)]
struct Request {
    pid: Pid,
    options: Options,
    reply: Reply<Result<Taken, CensusError>>,
}

/// The askers' end.
#[derive(Clone, Debug)]
pub struct CensusHandle {
    requests: SyncSender<Request>,
}

impl CensusHandle {
    /// Asks for a census, and waits for it. Whoever drops the future ends the census.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn take(&self, pid: Pid, options: Options) -> Result<Taken, CensusError> {
        self.begin(pid, options)?
            .await
            .map_err(|oneshot::error::RecvError { .. }| CensusError::Stopping)?
    }

    /// The same for a thread that may wait, but not for ever.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn take_blocking(&self, pid: Pid, options: Options) -> Result<Taken, CensusError> {
        self.take_within(pid, options, ANSWER_WITHIN)
    }

    fn take_within(&self, pid: Pid, options: Options, limit: Duration) -> Result<Taken, CensusError> {
        let mut answer = self.begin(pid, options)?;
        let begun = Instant::now();
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Closed) => return Err(CensusError::Stopping),
                Err(oneshot::error::TryRecvError::Empty) if begun.elapsed() < limit => thread::sleep(GLANCE),
                Err(oneshot::error::TryRecvError::Empty) => {
                    let seconds = limit.as_secs();
                    return Err(CensusError::Late { seconds });
                }
            }
        }
    }

    fn begin(&self, pid: Pid, options: Options) -> Result<oneshot::Receiver<Result<Taken, CensusError>>, CensusError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { pid, options, reply };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => CensusError::Busy,
            TrySendError::Disconnected(_) => CensusError::Stopping,
        })?;
        Ok(answer)
    }
}

/// Starts the thread that has censuses taken of the processes of a `/proc`. What they cost is noted in `health`.
///
/// # Errors
/// It cannot be started.
pub fn start(proc: ProcFs, health: Arc<Health>, stop: Arc<AtomicBool>) -> io::Result<(JoinHandle<()>, CensusHandle)> {
    let (requests, waiting) = sync_channel(QUEUE);
    let mut runs = Runs::new(proc, health);
    let thread = thread::Builder::new()
        .name("census".to_owned())
        .spawn(move || answer(&mut runs, &waiting, &stop))?;
    Ok((thread, CensusHandle { requests }))
}

fn answer(runs: &mut Runs, waiting: &Receiver<Request>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let request = match waiting.recv_timeout(TURN) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Request { pid, options, reply } = request;
        let taken = runs.take(pid, options, || reply.is_closed() || stop.load(Ordering::Acquire));
        match &taken {
            Ok(taken) => {
                let Cost { memory_bytes, busy, .. } = taken.cost;
                tracing::info!(pid = pid.0, memory_bytes, ?busy, "a census was taken");
            }
            Err(reason) => tracing::info!(pid = pid.0, %reason, "no census was taken"),
        }
        if reply.send(taken).is_err() {
            tracing::trace!("nobody waits for a census any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_told_that_nobody_answers() {
        let (requests, waiting) = sync_channel(QUEUE);
        let handle = CensusHandle { requests };
        let options = Options {
            compare: true,
            holders: true,
        };
        let taken = handle.take_within(Pid(1), options, Duration::from_millis(20));
        assert_eq!(taken.err(), Some(CensusError::Late { seconds: 0 }));
        assert!(waiting.recv().unwrap().reply.is_closed(), "the census ends");
        drop(waiting);
        assert_eq!(handle.take_blocking(Pid(1), options).err(), Some(CensusError::Stopping));
    }
}

//! What grows the memory of watched processes.
//!
//! In: page faults with their stacks named, and victims of want of memory. Out: for each process which code touched the pages
//! that it still has. One thread owns what is known of pages, and looks from time to time, and before each answer, which of
//! them are still there.

mod keeper;
mod oom;
mod presence;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::SystemTime,
};

use profiler_profile::Frame;
use profiler_store::{GrowthAnswer, GrowthQuery, GrowthStatus};
use tokio::sync::oneshot;

pub use keeper::{MemoryKeeper, MemoryParts};
pub use oom::{OomKilled, OomKills};

use crate::stacks::faults::FaultProcess;

/// The handle to the keeper of pages, once there is one: on a host where nothing can be sampled there never is.
pub type SharedMemory = Arc<OnceLock<MemoryHandle>>;

/// Windows and questions that may wait.
const QUEUE: usize = 64;

/// The frames of a stack, and the thread that it was taken in.
#[derive(Clone, Debug)]
pub struct NamedStack {
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Root first.
    pub frames: Box<[Arc<Frame>]>,
}

/// The faults of a window with their stacks named.
#[derive(Debug)]
pub struct NamedFaults {
    /// End of the window.
    pub end: SystemTime,
    /// What was lost in it, by reason.
    pub lost: BTreeMap<String, u64>,
    /// The faults by process.
    pub processes: Vec<FaultProcess>,
    /// The stacks by their numbers.
    pub stacks: HashMap<u32, NamedStack>,
}

/// What the keeper of pages can be told and asked.
#[derive(Debug)]
enum MemoryCommand {
    Window(NamedFaults),
    Query {
        query: GrowthQuery,
        reply: oneshot::Sender<GrowthAnswer>,
    },
    Status {
        reply: oneshot::Sender<GrowthStatus>,
    },
}

/// Why nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Too many questions wait.
    #[error("the keeper of pages is busy")]
    Busy,
    /// It has ended.
    #[error("the keeper of pages has ended")]
    Ended,
}

/// Tells the keeper of pages, and asks it.
#[derive(Clone, Debug)]
pub struct MemoryHandle {
    commands: SyncSender<MemoryCommand>,
    /// Faults that found no room in the queue.
    dropped: Arc<AtomicU64>,
}

impl MemoryHandle {
    /// Hands over a window; if the keeper is behind by far, it is dropped and counted.
    pub fn window(&self, window: NamedFaults) {
        match self.commands.try_send(MemoryCommand::Window(window)) {
            Ok(()) => {}
            Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) => {
                if let MemoryCommand::Window(window) = command {
                    let touches: usize = window.processes.iter().map(|process| process.touches.len()).sum();
                    self.dropped.fetch_add(touches as u64, Ordering::Relaxed);
                }
            }
        }
    }

    /// Which code touched what is still there.
    pub async fn query(&self, query: GrowthQuery) -> Result<GrowthAnswer, MemoryError> {
        self.ask(|reply| MemoryCommand::Query { query, reply }).await
    }

    /// What is kept.
    pub async fn status(&self) -> Result<GrowthStatus, MemoryError> {
        self.ask(|reply| MemoryCommand::Status { reply }).await
    }

    /// As [`Self::query`], for threads that may wait.
    pub fn query_blocking(&self, query: GrowthQuery) -> Result<GrowthAnswer, MemoryError> {
        let answer = self.begin(|reply| MemoryCommand::Query { query, reply })?;
        answer
            .blocking_recv()
            .map_err(|oneshot::error::RecvError { .. }| MemoryError::Ended)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> MemoryCommand) -> Result<T, MemoryError> {
        let answer = self.begin(command)?.await;
        answer.map_err(|oneshot::error::RecvError { .. }| MemoryError::Ended)
    }

    fn begin<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> MemoryCommand,
    ) -> Result<oneshot::Receiver<T>, MemoryError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            TrySendError::Full(_) => MemoryError::Busy,
            TrySendError::Disconnected(_) => MemoryError::Ended,
        })?;
        Ok(answer)
    }
}

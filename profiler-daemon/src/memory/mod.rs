//! What grows the memory of watched processes.
//!
//! In: page faults with their stacks named, and victims of want of memory. Out: for each process which code touched the pages
//! that it still has. One thread owns what is known of pages, and looks from time to time, and before each answer, which of
//! them are still there.

mod condition;
mod keeper;
mod oom;
mod presence;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        mpsc::{SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use profiler_profile::Frame;
use profiler_store::{GrowthAnswer, GrowthQuery, GrowthStatus};
use tokio::sync::oneshot;

pub use keeper::{MemoryKeeper, MemoryParts};
pub use oom::{OomKilled, OomKills};

use self::condition::Condition;
use crate::{health::PartState, stacks::faults::FaultProcess};

/// The handle to the keeper of pages, once there is one: on a host where nothing can be sampled there never is.
pub type SharedMemory = Arc<OnceLock<MemoryHandle>>;

/// Windows and questions that may wait.
const QUEUE: usize = 64;
/// Longest wait for an answer, and that of a thread that has other things to do: a process can be stuck in the kernel in a way
/// that whoever looks at its pages is stuck, too.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const BRIEF_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time between two looks for the answer.
const GLANCE: Duration = Duration::from_millis(5);

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

impl NamedFaults {
    fn touches(&self) -> u64 {
        self.processes.iter().map(|process| process.touches.len() as u64).sum()
    }
}

/// What the keeper of pages can be told and asked.
#[derive(Debug)]
enum MemoryCommand {
    Window(NamedFaults),
    Query {
        query: GrowthQuery,
        reply: oneshot::Sender<GrowthAnswer>,
    },
}

/// What is kept and what was not, for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptStatus {
    /// What was kept when the keeper last had nothing to do: its part of the health says if that was long ago.
    pub growth: GrowthStatus,
    /// Faults since the start that the keeper never got, or got without their stacks, or whose pages nobody could look at, by
    /// reason. Of the last it is told that they were touched.
    pub lost: [(&'static str, u64); 3],
}

/// Why nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Too many questions wait.
    #[error("the keeper of pages is busy")]
    Busy,
    /// It did not answer in time.
    #[error("the keeper of pages did not answer within {seconds} s")]
    Late {
        /// The time.
        seconds: u64,
    },
    /// It has ended.
    #[error("the keeper of pages has ended")]
    Ended,
}

/// Tells the keeper of pages, and asks it.
#[derive(Clone, Debug)]
pub struct MemoryHandle {
    commands: SyncSender<MemoryCommand>,
    condition: Arc<Condition>,
}

impl MemoryHandle {
    /// What is wrong with the keeper, if anything is.
    pub fn trouble(&self) -> Option<PartState> {
        self.condition.trouble(Instant::now())
    }

    /// Hands over a window; if the keeper is behind by far, it is dropped and counted, with what was lost in it.
    pub fn window(&self, window: NamedFaults) {
        let sent = self.commands.try_send(MemoryCommand::Window(window));
        let Err(TrySendError::Full(unsent) | TrySendError::Disconnected(unsent)) = sent else {
            return;
        };
        if let MemoryCommand::Window(window) = unsent {
            self.condition.note_dropped(&window);
        }
    }

    /// Which code touched what is still there.
    pub async fn query(&self, query: GrowthQuery) -> Result<GrowthAnswer, MemoryError> {
        let answer = self.begin(|reply| MemoryCommand::Query { query, reply })?;
        tokio::time::timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_elapsed| late(ANSWER_WITHIN))?
            .map_err(|oneshot::error::RecvError { .. }| MemoryError::Ended)
    }

    /// What is kept, without asking the keeper: it may be stuck.
    pub fn status(&self) -> KeptStatus {
        self.condition.status()
    }

    /// As [`Self::query`], for threads that may wait a little.
    pub fn query_blocking(&self, query: GrowthQuery) -> Result<GrowthAnswer, MemoryError> {
        self.query_within(query, BRIEF_ANSWER_WITHIN)
    }

    fn query_within(&self, query: GrowthQuery, limit: Duration) -> Result<GrowthAnswer, MemoryError> {
        let mut answer = self.begin(|reply| MemoryCommand::Query { query, reply })?;
        let begun = Instant::now();
        loop {
            match answer.try_recv() {
                Ok(answer) => return Ok(answer),
                Err(oneshot::error::TryRecvError::Closed) => return Err(MemoryError::Ended),
                Err(oneshot::error::TryRecvError::Empty) if begun.elapsed() < limit => thread::sleep(GLANCE),
                Err(oneshot::error::TryRecvError::Empty) => return Err(late(limit)),
            }
        }
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

fn late(limit: Duration) -> MemoryError {
    MemoryError::Late {
        seconds: limit.as_secs(),
    }
}

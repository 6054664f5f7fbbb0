//! Watches that begin as soon as the walker knows their processes.

use std::time::{Duration, Instant};

use super::{Engine, send};
use crate::{
    command::{Reply, WatchError, WatchStart},
    kernel::records::Pid,
};

/// Longest that the answer to a watch waits for the rows of the process, so that what is recorded from then on is whole.
const LOADING: Duration = Duration::from_secs(1);

/// A watch that begins as soon as the rows of its process are there.
#[derive(Debug)]
pub(super) struct StartingWatch {
    pid: Pid,
    reply: Reply<Result<WatchStart, WatchError>>,
    start: WatchStart,
    deadline: Instant,
}

impl StartingWatch {
    /// One that was asked for just now.
    pub(super) fn new(pid: Pid, reply: Reply<Result<WatchStart, WatchError>>, start: WatchStart) -> Self {
        Self {
            pid,
            reply,
            start,
            deadline: Instant::now() + LOADING,
        }
    }
}

impl Engine {
    /// Answers watches whose processes have their rows, or have waited long enough. A window ends first: what is sampled
    /// from now on can be told from what was before.
    pub(super) fn begin_watches(&mut self, now: Instant) {
        let processes = &self.parts.processes;
        let (waiting, ready): (Vec<_>, Vec<_>) = std::mem::take(&mut self.starting)
            .into_iter()
            .partition(|watch| now < watch.deadline && processes.is_loading(watch.pid));
        self.starting = waiting;
        if ready.is_empty() {
            return;
        }
        self.take();
        self.end_window(Vec::new());
        for StartingWatch { reply, start, .. } in ready {
            send(reply, Ok(start));
        }
    }
}

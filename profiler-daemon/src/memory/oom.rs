//! Processes that the kernel ended for want of memory, on their way from the sampling loop to whoever keeps them.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use profiler_profile::ProcessLabel;

use crate::kernel::records::Pid;

/// Victims that wait to be taken.
const MAX_WAITING: usize = 256;

/// A process that the kernel ended because memory ran out, on the host or in a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKilled {
    /// The process. It is gone, or about to go.
    pub pid: Pid,
    /// When it started, in ticks since boot; `None` if the daemon did not know it, or had not looked yet.
    pub start_ticks: Option<u64>,
    /// When it was chosen.
    pub time: SystemTime,
    /// What was known of it; `None` if the daemon did not know it.
    pub process: Option<ProcessLabel>,
}

/// The victims since the last look, the oldest first. Shared by who fills and who empties it.
#[derive(Debug, Default)]
pub struct OomKills {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    kills: VecDeque<OomKilled>,
    dropped: u64,
}

impl OomKills {
    /// Adds one. If nobody takes them, the oldest are dropped and counted.
    pub fn push(&self, kill: OomKilled) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.kills.len() >= MAX_WAITING {
            waiting.kills.pop_front();
            waiting.dropped += 1;
        }
        waiting.kills.push_back(kill);
    }

    /// Takes all that wait.
    pub fn take(&self) -> Vec<OomKilled> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut waiting.kills).into()
    }

    /// How many were dropped because nobody took them.
    pub fn dropped(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_are_kept_in_order_and_bounded() {
        let kills = OomKills::default();
        for pid in 0..MAX_WAITING as u32 + 3 {
            kills.push(OomKilled {
                pid: Pid(pid),
                start_ticks: None,
                time: SystemTime::UNIX_EPOCH,
                process: None,
            });
        }
        let taken = kills.take();
        assert_eq!((taken.len(), taken[0].pid, kills.dropped()), (MAX_WAITING, Pid(3), 3));
        assert!(kills.take().is_empty());
    }
}

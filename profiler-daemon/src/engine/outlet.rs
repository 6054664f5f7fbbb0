//! Windows on their way to be named: into a queue of bounded length, and one place more for a window that somebody waits
//! for, which is not lost while earlier ones are named.

use std::sync::mpsc::{SyncSender, TrySendError};

use super::Naming;

/// The way to the thread that names windows.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: SyncSender<Naming>,
    /// Found the queue full.
    kept: Option<Naming>,
}

impl Outlet {
    pub(super) fn new(queue: SyncSender<Naming>) -> Self {
        Self { queue, kept: None }
    }

    /// Whether a window that somebody waits for can be taken now.
    pub(super) fn has_room(&mut self) -> bool {
        if let Some(kept) = self.kept.take() {
            match self.queue.try_send(kept) {
                Err(TrySendError::Full(kept)) => self.kept = Some(kept),
                // Nobody names any more, which the next window finds as well; who waited is told by the answer's end.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            }
        }
        self.kept.is_none()
    }

    /// Sends a window behind those before it. Gives it back if there is no room for it, or nobody who names it.
    #[must_use]
    pub(super) fn send(&mut self, naming: Naming) -> Option<Naming> {
        if !self.has_room() {
            return Some(naming);
        }
        match self.queue.try_send(naming) {
            Ok(()) => None,
            Err(TrySendError::Full(naming)) if !naming.waiting.is_empty() => {
                self.kept = Some(naming);
                None
            }
            Err(TrySendError::Full(naming) | TrySendError::Disconnected(naming)) => Some(naming),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, sync_channel},
        time::{Duration, SystemTime},
    };

    use tokio::sync::oneshot;

    use super::*;
    use crate::stacks::window::StackWindow;

    fn window(number: u64) -> StackWindow {
        StackWindow {
            period: Duration::ZERO,
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH,
            processes: Vec::new(),
            codes: Vec::new(),
            lost: [(String::new(), number)].into(),
        }
    }

    fn naming(number: u64) -> Naming {
        Naming {
            window: window(number),
            waiting: Vec::new(),
        }
    }

    fn numbers(queue: &Receiver<Naming>) -> Vec<u64> {
        queue.try_iter().map(|naming| naming.window.lost[""]).collect()
    }

    #[test]
    fn a_window_that_is_waited_for_is_kept_until_there_is_room() {
        let (sender, queue) = sync_channel(2);
        let mut outlet = Outlet::new(sender);
        assert!(outlet.send(naming(0)).is_none());
        assert!(outlet.send(naming(1)).is_none());
        let (reply, mut answer) = oneshot::channel();
        let waited_for = Naming {
            waiting: vec![reply],
            ..naming(2)
        };
        assert!(outlet.send(waited_for).is_none());
        assert!(!outlet.has_room());
        assert_eq!(outlet.send(naming(3)).unwrap().window.lost[""], 3);
        answer.try_recv().unwrap_err();

        assert_eq!(numbers(&queue), [0, 1]);
        // It is before those that come after it.
        assert!(outlet.send(naming(4)).is_none());
        assert!(outlet.has_room());
        assert_eq!(numbers(&queue), [2, 4]);
    }

    #[test]
    fn who_waits_learns_that_nobody_names() {
        let (sender, queue) = sync_channel(1);
        let mut outlet = Outlet::new(sender);
        assert!(outlet.send(naming(0)).is_none());
        let (reply, mut answer) = oneshot::channel();
        let waiting = vec![reply];
        assert!(outlet.send(Naming { waiting, ..naming(1) }).is_none());
        drop(queue);
        assert!(outlet.has_room());
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(outlet.send(naming(2)).is_some());
    }
}

//! Windows on their way to be named: into a queue of bounded length, and some places more for those that have to end although
//! it is full: somebody waits for them, or what is sampled next counts for another time. While any of these is taken the
//! current window goes on, so that on a host where naming gets no CPU windows become longer before anything is lost.

use std::{
    collections::VecDeque,
    sync::mpsc::{SyncSender, TrySendError},
    time::{Duration, Instant},
};

use super::Naming;

/// Windows that may wait beside the queue.
const MAX_KEPT: usize = 3;
/// How much longer a window may become.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// How long a window may become that is to be of this length.
pub(super) fn longest(window_length: Duration) -> Duration {
    window_length.saturating_add(MAX_DELAY)
}

/// The way to the thread that names windows.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: SyncSender<Naming>,
    /// Found the queue full.
    kept: VecDeque<Naming>,
}

impl Outlet {
    pub(super) fn new(queue: SyncSender<Naming>) -> Self {
        Self {
            queue,
            kept: VecDeque::new(),
        }
    }

    /// Whether another window can be taken now.
    pub(super) fn has_room(&mut self) -> bool {
        while let Some(kept) = self.kept.pop_front() {
            match self.queue.try_send(kept) {
                Err(TrySendError::Full(kept)) => {
                    self.kept.push_front(kept);
                    break;
                }
                // Nobody names any more, which the next window finds as well; who waited is told by the answer's end.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            }
        }
        self.kept.is_empty()
    }

    /// Whether a window that was to end at `due` ends now.
    pub(super) fn is_over(&mut self, due: Instant, now: Instant) -> bool {
        now >= due && (self.has_room() || now >= due + MAX_DELAY)
    }

    /// Sends a window behind those before it. Gives it back if there is no room for it, or nobody who names it.
    #[must_use]
    pub(super) fn send(&mut self, naming: Naming) -> Option<Naming> {
        if self.has_room() {
            match self.queue.try_send(naming) {
                Ok(()) => None,
                Err(TrySendError::Full(naming)) => {
                    self.kept.push_back(naming);
                    None
                }
                Err(TrySendError::Disconnected(naming)) => Some(naming),
            }
        } else if self.kept.len() < MAX_KEPT {
            self.kept.push_back(naming);
            None
        } else {
            Some(naming)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, sync_channel},
        time::SystemTime,
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
            faults: None,
            mapped: None,
            waiting: Vec::new(),
        }
    }

    fn numbers(queue: &Receiver<Naming>) -> Vec<u64> {
        queue.try_iter().map(|naming| naming.window.lost[""]).collect()
    }

    #[test]
    fn windows_that_find_the_queue_full_are_kept_in_their_order() {
        let (sender, queue) = sync_channel(2);
        let mut outlet = Outlet::new(sender);
        assert!(outlet.send(naming(0)).is_none() && outlet.send(naming(1)).is_none());
        assert!(outlet.has_room());
        let (reply, mut answer) = oneshot::channel();
        let waited_for = Naming {
            waiting: vec![reply],
            ..naming(2)
        };
        assert!(outlet.send(waited_for).is_none());
        assert!(!outlet.has_room());
        // What has to end has some places more, and then no other.
        assert!(outlet.send(naming(3)).is_none() && outlet.send(naming(4)).is_none());
        assert_eq!(outlet.send(naming(5)).unwrap().window.lost[""], 5);
        answer.try_recv().unwrap_err();

        assert_eq!(queue.recv().unwrap().window.lost[""], 0);
        assert!(!outlet.has_room(), "one of three has found a place");
        assert_eq!(numbers(&queue), [1, 2]);
        assert!(outlet.send(naming(6)).is_none());
        assert_eq!(numbers(&queue), [3, 4]);
        assert!(outlet.has_room());
        assert_eq!(numbers(&queue), [6]);
    }

    #[test]
    fn a_window_goes_on_while_earlier_ones_wait() {
        let (sender, queue) = sync_channel(1);
        let mut outlet = Outlet::new(sender);
        let due = Instant::now();
        let after = |seconds| due + Duration::from_secs(seconds);
        assert!(outlet.is_over(due, due) && !outlet.is_over(after(1), due));
        assert!(outlet.send(naming(0)).is_none());
        // It would find a place beside the queue.
        assert!(outlet.is_over(due, due));
        assert!(outlet.send(naming(1)).is_none());
        assert!(!outlet.is_over(due, due) && !outlet.is_over(due, after(29)));
        assert!(outlet.is_over(due, after(30)), "not for ever");
        assert_eq!(longest(Duration::from_secs(5)), Duration::from_secs(35));
        assert_eq!(numbers(&queue), [0]);
        assert!(outlet.is_over(due, after(1)));
        assert_eq!(numbers(&queue), [1]);
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

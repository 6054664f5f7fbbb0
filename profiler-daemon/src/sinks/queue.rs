//! What a sink has not been told yet, in order and bounded. Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::notification::{Notification, Status};

/// The number of one notification to one sink, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// What is kept for a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Each notification, until it is told.
    Each,
    /// The newest of each alert's fingerprint, until it need not be told again.
    Newest,
}

/// One notification to one sink.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) notification: Arc<Notification>,
}

/// What became of others when one was added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Displaced {
    /// Need not be told any more.
    pub(super) superseded: Vec<EntryId>,
    /// Had no room.
    pub(super) dropped: Vec<EntryId>,
}

/// What a sink has not been told yet.
#[derive(Debug)]
pub(super) struct Queue {
    keeps: Keeps,
    capacity: usize,
    entries: VecDeque<Entry>,
}

impl Queue {
    pub(super) fn new(keeps: Keeps, capacity: usize) -> Self {
        Self {
            keeps,
            capacity: capacity.max(1),
            entries: VecDeque::new(),
        }
    }

    /// Adds one at the end, and makes room for it.
    pub(super) fn push(&mut self, entry: Entry) -> Displaced {
        let mut displaced = Displaced::default();
        if self.keeps == Keeps::Newest {
            let fingerprint = &entry.notification.fingerprint;
            self.entries.retain(|other| {
                let stays = other.notification.fingerprint != *fingerprint;
                if !stays {
                    displaced.superseded.push(other.id);
                }
                stays
            });
        }
        while self.entries.len() >= self.capacity {
            displaced.dropped.extend(self.drop_oldest());
        }
        self.entries.push_back(entry);
        displaced
    }

    /// Drops the beginning and the end of the oldest alert that nobody need hear of any more. Where there is none, the
    /// oldest entry goes.
    fn drop_oldest(&mut self) -> Vec<EntryId> {
        // The first may be on its way just now.
        let first = usize::from(self.keeps == Keeps::Each && self.entries.len() > 1);
        let victims = match self.keeps {
            Keeps::Each => self.oldest_pair(first),
            Keeps::Newest => {
                let is_over = |entry: &Entry| entry.notification.status == Status::Resolved;
                self.entries.iter().position(is_over).map(|index| vec![index])
            }
        };
        let victims = victims.unwrap_or_else(|| vec![first]);
        // From the end, so that indices stay true.
        let removed = victims.iter().rev().filter_map(|index| self.entries.remove(*index));
        removed.map(|entry| entry.id).collect()
    }

    fn oldest_pair(&self, first: usize) -> Option<Vec<usize>> {
        let mut begins = HashMap::new();
        for (index, entry) in self.entries.iter().enumerate().skip(first) {
            let alert = entry.notification.id.as_str();
            match entry.notification.status {
                Status::Firing => {
                    begins.entry(alert).or_insert(index);
                }
                Status::Resolved => {
                    if let Some(begin) = begins.get(alert) {
                        return Some(vec![*begin, index]);
                    }
                }
            }
        }
        None
    }

    /// Takes one out, if it is still there.
    pub(super) fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.id == id)?;
        self.entries.remove(index)
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<Entry> {
        self.entries.front().cloned()
    }

    /// All, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether the sink is, or will be, told that an alert of this fingerprint fires.
    pub(super) fn holds_firing(&self, fingerprint: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.notification.status == Status::Firing && entry.notification.fingerprint == fingerprint)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn entry(id: u64, alert: &str, status: Status) -> Entry {
        let mut notification = Notification::test("host", "sink", SystemTime::UNIX_EPOCH);
        notification.id = alert.to_owned();
        notification.fingerprint = alert.to_owned();
        notification.status = status;
        Entry {
            id: EntryId(id),
            notification: Arc::new(notification),
        }
    }

    fn ids(queue: &Queue) -> Vec<u64> {
        queue.iter().map(|entry| entry.id.0).collect()
    }

    /// What is left of entries written as `a` for the begin of alert a and `A` for its end.
    #[track_caller]
    fn check(keeps: Keeps, capacity: usize, alerts: &str, left: &[u64], dropped: &[u64], superseded: &[u64]) {
        let mut queue = Queue::new(keeps, capacity);
        let mut all = Displaced::default();
        for (id, alert) in alerts.chars().enumerate() {
            let status = if alert.is_uppercase() {
                Status::Resolved
            } else {
                Status::Firing
            };
            let displaced = queue.push(entry(id as u64, &alert.to_lowercase().to_string(), status));
            all.dropped.extend(displaced.dropped);
            all.superseded.extend(displaced.superseded);
            assert!(queue.len() <= capacity);
        }
        all.dropped.sort();
        let numbers = |ids: &[EntryId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(&queue), left);
        assert_eq!(numbers(&all.dropped), dropped);
        assert_eq!(numbers(&all.superseded), superseded);
    }

    #[test]
    fn what_begins_and_ends_unheard_goes_first() {
        check(Keeps::Each, 4, "abAB", &[0, 1, 2, 3], &[], &[]);
        // The first may be on its way: of `b` both are dropped.
        check(
            Keeps::Each,
            4,
            "abAB c".replace(' ', "").as_str(),
            &[0, 2, 4],
            &[1, 3],
            &[],
        );
        check(Keeps::Each, 4, "xabBc", &[0, 1, 4], &[2, 3], &[]);
        // Nothing is over: the oldest but the first goes.
        check(Keeps::Each, 3, "abcd", &[0, 2, 3], &[1], &[]);
        // An end whose begin was told is kept as long as any other.
        check(Keeps::Each, 3, "aXbc", &[0, 2, 3], &[1], &[]);
        check(Keeps::Each, 1, "ab", &[1], &[0], &[]);
    }

    #[test]
    fn the_newest_of_each_alert_is_kept() {
        check(Keeps::Newest, 3, "abA", &[1, 2], &[], &[0]);
        check(Keeps::Newest, 3, "abAa", &[1, 3], &[], &[0, 2]);
        check(Keeps::Newest, 2, "abBc", &[0, 3], &[2], &[1]);
        check(Keeps::Newest, 2, "abc", &[1, 2], &[0], &[]);
    }

    #[test]
    fn what_was_told_is_taken_out_once() {
        let mut queue = Queue::new(Keeps::Each, 4);
        queue.push(entry(7, "a", Status::Firing));
        assert!(queue.holds_firing("a") && !queue.holds_firing("b"));
        assert_eq!(queue.first().unwrap().id, EntryId(7));
        assert!(queue.remove(EntryId(7)).is_some());
        assert!(queue.remove(EntryId(7)).is_none());
        assert!(queue.first().is_none());
    }
}

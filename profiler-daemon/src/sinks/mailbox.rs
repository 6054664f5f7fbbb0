//! One sink's queue, its state and its counts: what the dispatcher puts in and the sink's task takes out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use profiler_store::state::{KeptNotification, Outbox};
use tokio::sync::Notify;

use super::{
    notification::Notification,
    queue::{Entry, EntryId, Keeps, Queue},
};

/// What a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkState {
    /// What was to be told is told, or about to be.
    Active,
    /// The newest attempt failed.
    Failed {
        /// When the first attempt failed that no success followed.
        since: SystemTime,
        /// Why the newest did.
        reason: String,
    },
}

/// What became of notifications since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Taken by the sink. One that is told again and again counts once each time.
    pub sent: u64,
    /// Attempts that failed and were, or will be, made again.
    pub retried: u64,
    /// Never told: there was no room.
    pub dropped: u64,
    /// Never told: the sink said that it will never take it.
    pub refused: u64,
    /// Would not have outlived the daemon: they could not be kept.
    pub unsaved: u64,
}

/// A sink as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its kind in the configuration.
    pub kind: &'static str,
    /// What it is doing.
    pub state: SinkState,
    /// Notifications that wait, or are told again and again.
    pub queued: usize,
    /// What became of the others.
    pub counts: SinkCounts,
}

/// Why a notification was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// It may be taken later.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// It will never be taken: another attempt is pointless.
    #[error("refused: {reason}")]
    Refused {
        /// What the sink said.
        reason: String,
    },
}

/// Where all sinks keep what they have not told yet.
pub(super) type SharedOutbox = Arc<Mutex<Outbox>>;

/// One sink's queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    name: String,
    kind: &'static str,
    outbox: SharedOutbox,
    inner: Mutex<Inner>,
    /// Something was put in.
    pub(super) wake: Notify,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    state: SinkState,
    counts: SinkCounts,
}

impl Mailbox {
    pub(super) fn new(name: &str, kind: &'static str, keeps: Keeps, capacity: usize, outbox: SharedOutbox) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            outbox,
            inner: Mutex::new(Inner {
                queue: Queue::new(keeps, capacity),
                state: SinkState::Active,
                counts: SinkCounts::default(),
            }),
            wake: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a notification beyond a restart, then queues it.
    pub(super) fn post(&self, id: EntryId, notification: Arc<Notification>) {
        let saved = match serde_json::to_vec(&*notification) {
            Ok(payload) => {
                let kept = KeptNotification {
                    id: id.0,
                    sink: self.name.clone(),
                    payload,
                };
                locked(&self.outbox).put(&kept).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = saved {
            self.inner().counts.unsaved += 1;
            tracing::warn!(sink = self.name, error, "a notification would not outlive the daemon");
        }
        self.queue(id, notification);
    }

    /// Queues what is kept already.
    pub(super) fn queue(&self, id: EntryId, notification: Arc<Notification>) {
        let displaced = {
            let mut inner = self.inner();
            let displaced = inner.queue.push(Entry { id, notification });
            inner.counts.dropped += displaced.dropped.len() as u64;
            displaced
        };
        self.forget(&displaced.superseded);
        self.forget(&displaced.dropped);
        self.wake.notify_one();
    }

    fn forget(&self, ids: &[EntryId]) {
        if ids.is_empty() {
            return;
        }
        let numbers: Vec<u64> = ids.iter().map(|id| id.0).collect();
        if let Err(error) = locked(&self.outbox).remove(&numbers) {
            tracing::warn!(sink = self.name, %error, "what was told may be told again after a restart");
        }
    }

    /// The oldest entry.
    pub(super) fn first(&self) -> Option<Entry> {
        self.inner().queue.first()
    }

    /// The oldest entry of another alert than this one's.
    pub(super) fn first_of_another(&self, entry: &Entry) -> Option<Entry> {
        let inner = self.inner();
        let is_another = |other: &&Entry| other.notification.id != entry.notification.id;
        inner.queue.iter().find(is_another).cloned()
    }

    /// All entries, the oldest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.inner().queue.iter().cloned().collect()
    }

    /// Whether the sink is, or will be, told that an alert of this fingerprint fires.
    pub(super) fn holds_firing(&self, fingerprint: &str) -> bool {
        self.inner().queue.holds_firing(fingerprint)
    }

    /// The sink took notifications. They may be told again.
    pub(super) fn sent(&self, count: usize) {
        let was = {
            let mut inner = self.inner();
            inner.counts.sent += count as u64;
            std::mem::replace(&mut inner.state, SinkState::Active)
        };
        if let SinkState::Failed { .. } = was {
            tracing::info!(sink = self.name, "takes notifications again");
        }
    }

    /// An entry need not be told any more.
    pub(super) fn done(&self, id: EntryId) {
        if self.inner().queue.remove(id).is_some() {
            self.forget(&[id]);
        }
    }

    /// The sink will never take these.
    pub(super) fn refused(&self, ids: &[EntryId], reason: &str) {
        {
            let mut inner = self.inner();
            for id in ids {
                inner.counts.refused += u64::from(inner.queue.remove(*id).is_some());
            }
        }
        self.forget(ids);
        self.note_failure(reason);
    }

    /// An attempt failed and will be made again.
    pub(super) fn failed(&self, reason: &str) {
        self.inner().counts.retried += 1;
        self.note_failure(reason);
    }

    fn note_failure(&self, reason: &str) {
        let mut inner = self.inner();
        let (since, is_new) = match &inner.state {
            SinkState::Active => (SystemTime::now(), true),
            SinkState::Failed { since, reason: before } => (*since, before != reason),
        };
        inner.state = SinkState::Failed {
            since,
            reason: reason.to_owned(),
        };
        drop(inner);
        if is_new {
            tracing::warn!(sink = self.name, reason, "does not take notifications");
        }
    }

    pub(super) fn status(&self) -> SinkStatus {
        let inner = self.inner();
        SinkStatus {
            name: self.name.clone(),
            kind: self.kind,
            state: inner.state.clone(),
            queued: inner.queue.len(),
            counts: inner.counts,
        }
    }
}

pub(super) fn locked(outbox: &SharedOutbox) -> MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}

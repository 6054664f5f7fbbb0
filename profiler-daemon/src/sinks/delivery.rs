//! How a sink's task works through its queue: in order where each notification is an event, over and over where the
//! receiver wants the state of things.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    mailbox::{DeliveryError, Mailbox},
    notification::{Notification, Status},
    queue::{Entry, EntryId},
};

/// Most notifications of one request.
const MAX_BATCH: usize = 64;

/// Tells a sink.
pub(super) trait Deliver {
    /// Tells these at once. It ends by itself, within the sink's time.
    fn deliver(&self, batch: &[Arc<Notification>]) -> impl Future<Output = Result<(), DeliveryError>> + Send;
}

/// When attempts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time before the first attempt is made again; each further one waits twice as long.
    pub first_delay: Duration,
    /// The longest time between two attempts.
    pub longest_delay: Duration,
    /// Time after which an Alertmanager is told again what still fires.
    pub repeat: Duration,
    /// For how long an Alertmanager is told that an alert ended.
    pub repeat_resolved: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(60),
            repeat: Duration::from_secs(30),
            repeat_resolved: Duration::from_secs(5 * 60),
        }
    }
}

/// The time before the next attempt, with chance in it: daemons of many hosts must not come all at once.
#[derive(Debug)]
struct BackOff {
    pace: Pace,
    failures: u32,
    chance: RandomState,
}

impl BackOff {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            failures: 0,
            chance: RandomState::new(),
        }
    }

    fn reset(&mut self) {
        self.failures = 0;
    }

    /// Between half and the whole of the time that is due.
    fn next(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures);
        let whole = self
            .pace
            .first_delay
            .saturating_mul(factor)
            .min(self.pace.longest_delay);
        self.failures = self.failures.saturating_add(1);
        let mut hasher = self.chance.build_hasher();
        hasher.write_u32(self.failures);
        let share = (hasher.finish() >> 32) as f64 / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }
}

/// Tells each notification once it was taken, in order.
pub(super) async fn in_order(mailbox: Arc<Mailbox>, sink: Arc<impl Deliver>, pace: Pace) {
    let mut back_off = BackOff::new(pace);
    loop {
        let Some(entry) = mailbox.first() else {
            mailbox.wake.notified().await;
            continue;
        };
        match sink.deliver(std::slice::from_ref(&entry.notification)).await {
            Ok(()) => {
                back_off.reset();
                mailbox.sent(1);
                mailbox.done(entry.id);
            }
            Err(DeliveryError::Refused { reason }) => {
                back_off.reset();
                mailbox.refused(&[entry.id], &reason);
            }
            Err(DeliveryError::Failed { reason }) => {
                mailbox.failed(&reason);
                sleep(back_off.next()).await;
            }
        }
    }
}

/// When an entry was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    first: Instant,
    last: Instant,
}

/// Tells what fires again and again, and what ended for a while.
pub(super) async fn over_and_over(mailbox: Arc<Mailbox>, sink: Arc<impl Deliver>, pace: Pace) {
    let mut back_off = BackOff::new(pace);
    let mut told: HashMap<EntryId, Told> = HashMap::new();
    loop {
        let entries = mailbox.entries();
        told.retain(|id, _| entries.iter().any(|entry| entry.id == *id));
        let now = Instant::now();
        let is_due = |entry: &&Entry| told.get(&entry.id).is_none_or(|told| told.last + pace.repeat <= now);
        let batch: Vec<Entry> = entries.iter().filter(is_due).take(MAX_BATCH).cloned().collect();
        if batch.is_empty() {
            let next = told.values().map(|told| told.last + pace.repeat).min();
            match next {
                // Whether it was woken or the time has come: what is due is looked up anew.
                Some(next) => drop(timeout_at(next, mailbox.wake.notified()).await),
                None => mailbox.wake.notified().await,
            }
            continue;
        }
        match tell(&batch, &*sink).await {
            Ok(()) => {
                back_off.reset();
                mailbox.sent(batch.len());
                note(&batch, &mut told, &mailbox, pace);
            }
            Err(DeliveryError::Failed { reason }) => {
                mailbox.failed(&reason);
                sleep_until(Instant::now() + back_off.next()).await;
            }
            // One that is wrong must not keep the others away.
            Err(DeliveryError::Refused { reason }) if batch.len() == 1 => {
                mailbox.refused(&[batch[0].id], &reason);
            }
            Err(DeliveryError::Refused { .. }) => {
                for entry in batch {
                    one_by_one(entry, &mailbox, &*sink, &mut told, pace, &mut back_off).await;
                }
            }
        }
    }
}

async fn tell(batch: &[Entry], sink: &impl Deliver) -> Result<(), DeliveryError> {
    let notifications: Vec<_> = batch.iter().map(|entry| Arc::clone(&entry.notification)).collect();
    sink.deliver(&notifications).await
}

async fn one_by_one(
    entry: Entry,
    mailbox: &Mailbox,
    sink: &impl Deliver,
    told: &mut HashMap<EntryId, Told>,
    pace: Pace,
    back_off: &mut BackOff,
) {
    let batch = [entry];
    match tell(&batch, sink).await {
        Ok(()) => {
            mailbox.sent(1);
            note(&batch, told, mailbox, pace);
        }
        Err(DeliveryError::Refused { reason }) => mailbox.refused(&[batch[0].id], &reason),
        Err(DeliveryError::Failed { reason }) => {
            mailbox.failed(&reason);
            sleep(back_off.next()).await;
        }
    }
}

/// Remembers when these were told, and takes out what was told to be over for long enough.
fn note(batch: &[Entry], told: &mut HashMap<EntryId, Told>, mailbox: &Mailbox, pace: Pace) {
    let now = Instant::now();
    for entry in batch {
        let entry_told = told.entry(entry.id).or_insert(Told { first: now, last: now });
        entry_told.last = now;
        if entry.notification.status == Status::Resolved && now >= entry_told.first + pace.repeat_resolved {
            mailbox.done(entry.id);
        }
    }
}

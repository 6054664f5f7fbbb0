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

/// How long a notification may fail before another one is tried: it may be what the sink cannot take.
const TRIED_ALONE: Duration = Duration::from_secs(10 * 60);

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

/// Tells each notification until it was taken, in order. One that fails for long while the next of another alert is taken is
/// given up: nobody would ever hear of the others.
pub(super) async fn in_order(mailbox: Arc<Mailbox>, sink: Arc<impl Deliver>, pace: Pace) {
    let mut back_off = BackOff::new(pace);
    let mut failing: Option<(EntryId, Instant)> = None;
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
                let since = match failing {
                    Some((id, since)) if id == entry.id => since,
                    _ => Instant::now(),
                };
                failing = Some((entry.id, since));
                if since.elapsed() >= TRIED_ALONE
                    && let Some(other) = mailbox.first_of_another(&entry)
                    && sink.deliver(std::slice::from_ref(&other.notification)).await.is_ok()
                {
                    back_off.reset();
                    mailbox.refused(&[entry.id], &format!("{reason}; another was taken meanwhile"));
                    mailbox.sent(1);
                    mailbox.done(other.id);
                } else {
                    sleep(back_off.next()).await;
                }
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

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        time::{SystemTime, UNIX_EPOCH},
    };

    use profiler_store::state::Outbox;

    use super::*;
    use crate::sinks::{
        mailbox::{SharedOutbox, SinkState},
        queue::Keeps,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A sink that is away until a time, never takes one notification, and remembers what it took.
    #[derive(Debug)]
    struct Double {
        start: Instant,
        away_until: Duration,
        takes: Duration,
        poison: &'static str,
        stuck: &'static str,
        told: Mutex<Vec<(Duration, String)>>,
    }

    impl Double {
        fn new() -> Self {
            Self {
                start: Instant::now(),
                away_until: Duration::ZERO,
                takes: Duration::ZERO,
                poison: "",
                stuck: "",
                told: Mutex::default(),
            }
        }

        fn told(&self) -> Vec<String> {
            self.told.lock().unwrap().iter().map(|(_, key)| key.clone()).collect()
        }

        /// When it was told of this, in whole seconds.
        fn times(&self, key: &str) -> Vec<u64> {
            let told = self.told.lock().unwrap();
            told.iter()
                .filter(|(_, other)| other == key)
                .map(|(at, _)| at.as_secs())
                .collect()
        }
    }

    impl Deliver for Double {
        async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
            sleep(self.takes).await;
            let keys: Vec<_> = batch.iter().map(|one| one.idempotency_key()).collect();
            let now = self.start.elapsed();
            if now < self.away_until {
                let reason = "away".to_owned();
                return Err(DeliveryError::Failed { reason });
            }
            if keys.iter().any(|key| key.starts_with(self.stuck)) && !self.stuck.is_empty() {
                let reason = "stuck".to_owned();
                return Err(DeliveryError::Failed { reason });
            }
            if keys.iter().any(|key| key.starts_with(self.poison)) && !self.poison.is_empty() {
                let reason = "nonsense".to_owned();
                return Err(DeliveryError::Refused { reason });
            }
            self.told.lock().unwrap().extend(keys.into_iter().map(|key| (now, key)));
            Ok(())
        }
    }

    fn notification(alert: &str, status: Status) -> Arc<Notification> {
        let mut notification = Notification::test("host", "sink", UNIX_EPOCH);
        notification.id = alert.to_owned();
        notification.fingerprint = alert.to_owned();
        notification.status = status;
        notification.ends_at = (status == Status::Resolved).then_some(SystemTime::UNIX_EPOCH + MINUTE);
        Arc::new(notification)
    }

    struct Desk {
        folder: tempfile::TempDir,
        outbox: SharedOutbox,
        posted: u64,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let outbox = Arc::new(Mutex::new(Outbox::open(folder.path()).unwrap()));
            Self {
                folder,
                outbox,
                posted: 0,
            }
        }

        fn mailbox(&self, name: &str, keeps: Keeps) -> Arc<Mailbox> {
            Arc::new(Mailbox::new(name, "webhook", keeps, 100, Arc::clone(&self.outbox)))
        }

        fn post(&mut self, mailbox: &Mailbox, alert: &str, status: Status) {
            self.posted += 1;
            mailbox.post(EntryId(self.posted), notification(alert, status));
        }

        /// What would be told after a restart.
        fn kept(&self) -> Vec<u64> {
            let kept = Outbox::open(self.folder.path()).unwrap().all().unwrap();
            kept.iter().map(|kept| kept.id).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_was_away_for_five_minutes_is_told_everything_once() {
        let mut desk = Desk::new();
        let mailbox = desk.mailbox("away", Keeps::Each);
        let sink = Arc::new(Double {
            away_until: 5 * MINUTE,
            ..Double::new()
        });
        tokio::spawn(in_order(Arc::clone(&mailbox), Arc::clone(&sink), Pace::default()));
        for (alert, status) in [
            ("a", Status::Firing),
            ("b", Status::Firing),
            ("a", Status::Resolved),
            ("c", Status::Firing),
        ] {
            desk.post(&mailbox, alert, status);
            sleep(MINUTE).await;
        }
        assert!(sink.told().is_empty());
        let status = mailbox.status();
        assert!(matches!(&status.state, SinkState::Failed { reason, .. } if reason == "away"));
        assert_eq!((status.queued, status.counts.sent), (4, 0));
        // No more than one attempt a second, and at least one a minute.
        assert!((4..240).contains(&status.counts.retried), "{status:?}");
        assert_eq!(desk.kept(), [1, 2, 3, 4]);

        sleep(Pace::default().longest_delay + MINUTE + SECOND).await;
        assert_eq!(sink.told(), ["a-firing", "b-firing", "a-resolved", "c-firing"]);
        let status = mailbox.status();
        assert_eq!((status.queued, status.counts.sent, status.counts.dropped), (0, 4, 0));
        assert_eq!(status.state, SinkState::Active);
        assert!(desk.kept().is_empty());
        sleep(5 * MINUTE).await;
        assert_eq!(sink.told().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_for_ever_keeps_others_waiting_for_minutes_only() {
        let mut desk = Desk::new();
        let mailbox = desk.mailbox("stuck", Keeps::Each);
        let sink = Arc::new(Double {
            stuck: "a",
            ..Double::new()
        });
        tokio::spawn(in_order(Arc::clone(&mailbox), Arc::clone(&sink), Pace::default()));
        desk.post(&mailbox, "a", Status::Firing);
        desk.post(&mailbox, "a", Status::Resolved);
        sleep(20 * MINUTE).await;
        assert_eq!(mailbox.status().queued, 2, "with nothing else to tell it is tried on");
        for alert in ["b", "c"] {
            desk.post(&mailbox, alert, Status::Firing);
        }
        sleep(2 * MINUTE).await;
        assert_eq!(
            sink.told(),
            ["b-firing"],
            "the end of the same alert is as likely to fail"
        );
        sleep(12 * MINUTE).await;
        assert_eq!(sink.told(), ["b-firing", "c-firing"]);
        let status = mailbox.status();
        assert_eq!((status.queued, status.counts.sent, status.counts.refused), (0, 2, 2));
        assert!(desk.kept().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_away_for_hours_loses_nothing() {
        let mut desk = Desk::new();
        let mailbox = desk.mailbox("away", Keeps::Each);
        let sink = Arc::new(Double {
            away_until: 300 * MINUTE,
            ..Double::new()
        });
        tokio::spawn(in_order(Arc::clone(&mailbox), Arc::clone(&sink), Pace::default()));
        for alert in ["a", "b", "c"] {
            desk.post(&mailbox, alert, Status::Firing);
        }
        sleep(303 * MINUTE).await;
        let status = mailbox.status();
        assert_eq!((status.queued, status.counts.sent, status.counts.refused), (0, 3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sink_does_not_delay_another() {
        let mut desk = Desk::new();
        let (slow_box, quick_box) = (desk.mailbox("slow", Keeps::Each), desk.mailbox("quick", Keeps::Each));
        let slow = Arc::new(Double {
            takes: MINUTE,
            ..Double::new()
        });
        let quick = Arc::new(Double::new());
        tokio::spawn(in_order(Arc::clone(&slow_box), Arc::clone(&slow), Pace::default()));
        tokio::spawn(in_order(Arc::clone(&quick_box), Arc::clone(&quick), Pace::default()));
        for alert in ["a", "b", "c"] {
            desk.post(&slow_box, alert, Status::Firing);
            desk.post(&quick_box, alert, Status::Firing);
        }
        sleep(SECOND).await;
        assert_eq!(quick.told(), ["a-firing", "b-firing", "c-firing"]);
        assert!(slow.told().is_empty());
        sleep(4 * MINUTE).await;
        assert_eq!(slow.told(), ["a-firing", "b-firing", "c-firing"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fires_is_repeated_and_what_ended_for_five_minutes() {
        let mut desk = Desk::new();
        let mailbox = desk.mailbox("alertmanager", Keeps::Newest);
        let sink = Arc::new(Double::new());
        tokio::spawn(over_and_over(Arc::clone(&mailbox), Arc::clone(&sink), Pace::default()));
        desk.post(&mailbox, "a", Status::Firing);
        sleep(100 * SECOND).await;
        assert_eq!(sink.times("a-firing"), [0, 30, 60, 90]);
        desk.post(&mailbox, "a", Status::Resolved);
        desk.post(&mailbox, "b", Status::Firing);
        sleep(10 * MINUTE).await;
        assert_eq!(sink.times("a-firing").len(), 4);
        // At once, and until five minutes later.
        let expected: Vec<u64> = (0..=10).map(|repeat| 100 + 30 * repeat).collect();
        assert_eq!(sink.times("a-resolved"), expected);
        assert_eq!(sink.times("b-firing").len(), 20);
        // What still fires is told again after a restart.
        assert_eq!(desk.kept(), [3]);
        assert_eq!(mailbox.status().queued, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alertmanager_that_was_away_is_told_how_things_are() {
        let mut desk = Desk::new();
        let mailbox = desk.mailbox("alertmanager", Keeps::Newest);
        let sink = Arc::new(Double {
            away_until: 5 * MINUTE,
            ..Double::new()
        });
        tokio::spawn(over_and_over(Arc::clone(&mailbox), Arc::clone(&sink), Pace::default()));
        desk.post(&mailbox, "a", Status::Firing);
        desk.post(&mailbox, "b", Status::Firing);
        sleep(MINUTE).await;
        desk.post(&mailbox, "a", Status::Resolved);
        sleep(5 * MINUTE + SECOND).await;
        let told = sink.told();
        assert!(told.contains(&"b-firing".to_owned()) && told.contains(&"a-resolved".to_owned()));
        assert!(!told.contains(&"a-firing".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_wrong_does_not_keep_the_others_away() {
        let mut desk = Desk::new();
        let (each, newest) = (desk.mailbox("each", Keeps::Each), desk.mailbox("newest", Keeps::Newest));
        let double = || {
            Arc::new(Double {
                poison: "b",
                ..Double::new()
            })
        };
        let (hook, alertmanager) = (double(), double());
        for mailbox in [&each, &newest] {
            for alert in ["a", "b", "c"] {
                desk.post(mailbox, alert, Status::Firing);
            }
        }
        tokio::spawn(in_order(Arc::clone(&each), Arc::clone(&hook), Pace::default()));
        let pace = Pace::default();
        tokio::spawn(over_and_over(Arc::clone(&newest), Arc::clone(&alertmanager), pace));
        sleep(SECOND).await;
        for (mailbox, sink) in [(each, hook), (newest, alertmanager)] {
            assert_eq!(sink.told(), ["a-firing", "c-firing"]);
            assert_eq!(mailbox.status().counts.refused, 1);
        }
        // The others of the Alertmanager are told again and again.
        assert_eq!(desk.kept(), [4, 6]);
    }

    #[test]
    fn attempts_become_rare_but_not_too_rare() {
        let pace = Pace::default();
        let mut back_off = BackOff::new(pace);
        let mut whole = pace.first_delay;
        for _ in 0..40 {
            let delay = back_off.next();
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
            whole = (whole * 2).min(pace.longest_delay);
        }
        back_off.reset();
        assert!(back_off.next() <= pace.first_delay);
    }
}

//! The sinks of the configuration, each with its queue and its task, on one thread.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use profiler_config::Sink;
use profiler_store::state::Outbox;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    task::AbortHandle,
};

use super::{
    delivery::{Deliver as _, Pace, in_order, over_and_over},
    mailbox::{DeliveryError, Mailbox, SharedOutbox, SinkStatus, locked},
    notification::{Notification, Severity, Status},
    queue::{EntryId, Keeps},
    target::Target,
};
use crate::children::Runner;

/// For how long the end of the daemon waits for what a sink is just doing.
const PATIENCE: Duration = Duration::from_millis(500);

/// What all sinks have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When attempts are made.
    pub pace: Pace,
    /// Most notifications that wait for one sink.
    pub capacity: usize,
    /// The name of this host.
    pub host: String,
    /// Where people reach what this daemon shows; empty for nowhere.
    pub external_url: String,
    /// Runs commands.
    pub runner: Runner,
}

impl Settings {
    /// What holds where nothing else is said.
    pub fn new(host: String, external_url: String) -> Self {
        Self {
            pace: Pace::default(),
            capacity: 1000,
            host,
            external_url,
            runner: Runner::of_this_program(),
        }
    }
}

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
#[error("the thread that tells sinks of alerts cannot start: {source}")]
pub struct StartError {
    #[from]
    source: io::Error,
}

/// Why a test did not reach a sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestError {
    /// There is no such sink.
    #[error("there is no sink {name}, or it is switched off")]
    Unknown {
        /// As it was asked for.
        name: String,
    },
    /// It did not take the test.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// One sink at work.
#[derive(Debug)]
struct Worker {
    sink: Sink,
    /// Where people reach what this daemon shows, as this sink is told.
    external_url: String,
    target: Arc<Target>,
    mailbox: Arc<Mailbox>,
    task: AbortHandle,
}

/// Tells sinks of alerts. Dropping it ends all attempts; what was not delivered stays in the outbox.
#[derive(Debug)]
pub struct Dispatcher {
    settings: Mutex<Settings>,
    outbox: SharedOutbox,
    next_id: AtomicU64,
    workers: Mutex<BTreeMap<String, Worker>>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dispatcher {
    /// Starts the sinks, and has them told what was not delivered before the last end.
    ///
    /// # Errors
    /// The thread cannot start. An outbox that cannot be read is none: it is said in the log, and sinks work without.
    pub fn start(sinks: &[Sink], outbox: Outbox, settings: Settings) -> Result<Self, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("sinks".to_owned())
            .spawn(move || turn(runtime, stopped))?;
        let dispatcher = Self {
            settings: Mutex::new(settings),
            outbox: Arc::new(Mutex::new(outbox)),
            next_id: AtomicU64::new(0),
            workers: Mutex::new(BTreeMap::new()),
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        };
        dispatcher.set_sinks(sinks);
        dispatcher.restore();
        Ok(dispatcher)
    }

    /// Queues what is in the outbox.
    fn restore(&self) {
        let kept = locked(&self.outbox).all().unwrap_or_else(|error| {
            tracing::error!(%error, "what was not delivered before the last end cannot be read");
            Vec::new()
        });
        let workers = self.workers();
        let mut orphans = Vec::new();
        for kept in kept {
            self.next_id.fetch_max(kept.id.saturating_add(1), Ordering::Relaxed);
            let notification = serde_json::from_slice::<Notification>(&kept.payload);
            match (workers.get(&kept.sink), notification) {
                (Some(worker), Ok(notification)) => worker.mailbox.queue(EntryId(kept.id), Arc::new(notification)),
                _ => orphans.push(kept.id),
            }
        }
        if !orphans.is_empty() {
            let count = orphans.len();
            tracing::warn!(
                count,
                "notifications are given up: their sinks are no more, or they cannot be read"
            );
            self.forget(&orphans);
        }
    }

    fn forget(&self, ids: &[u64]) {
        if let Err(error) = locked(&self.outbox).remove(ids) {
            tracing::warn!(%error, "notifications that were given up cannot be forgotten");
        }
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where people reach what this daemon shows, for the sinks that are set from now on; empty for nowhere.
    pub fn set_external_url(&self, external_url: &str) {
        external_url.clone_into(&mut self.settings().external_url);
    }

    /// Tells these sinks from now on. One that changed goes on with what it has not told, and counts anew; what is waiting for
    /// one that is no more is given up, and said in the log.
    pub fn set_sinks(&self, sinks: &[Sink]) {
        let settings = self.settings().clone();
        let mut workers = self.workers();
        let mut old = std::mem::take(&mut *workers);
        for sink in sinks.iter().filter(|sink| sink.enabled) {
            let worker = match old.remove(&sink.name) {
                Some(worker) if worker.sink == *sink && worker.external_url == settings.external_url => worker,
                before => {
                    let worker = self.worker(sink, &settings);
                    if let Some(before) = before {
                        before.task.abort();
                        for entry in before.mailbox.entries() {
                            worker.mailbox.queue(entry.id, entry.notification);
                        }
                    }
                    worker
                }
            };
            workers.insert(sink.name.clone(), worker);
        }
        for (sink, worker) in old {
            worker.task.abort();
            let ids: Vec<_> = worker.mailbox.entries().iter().map(|entry| entry.id.0).collect();
            if !ids.is_empty() {
                tracing::warn!(
                    sink,
                    count = ids.len(),
                    "notifications are given up: their sink is no more"
                );
            }
            self.forget(&ids);
        }
    }

    fn worker(&self, sink: &Sink, settings: &Settings) -> Worker {
        let target = Arc::new(Target::of(sink, settings));
        let keeps = target.keeps();
        let outbox = Arc::clone(&self.outbox);
        let kind = sink.target.kind();
        let mailbox = Arc::new(Mailbox::new(&sink.name, kind, keeps, settings.capacity, outbox));
        let (own_mailbox, own_target, pace) = (Arc::clone(&mailbox), Arc::clone(&target), settings.pace);
        let task = match keeps {
            Keeps::Each => self.runtime.spawn(in_order(own_mailbox, own_target, pace)),
            Keeps::Newest => self.runtime.spawn(over_and_over(own_mailbox, own_target, pace)),
        };
        let abort = task.abort_handle();
        let watched = Arc::clone(&mailbox);
        self.runtime.spawn(async move {
            // Nothing else would tell that the sink does not work any more.
            if task.await.is_err_and(|error| error.is_panic()) {
                watched.failed("its task panicked: restart the daemon, and report the panic");
            }
        });
        Worker {
            sink: sink.clone(),
            external_url: settings.external_url.clone(),
            target,
            mailbox,
            task: abort,
        }
    }

    /// Has sinks told, by their names. When this returns, what is to be told outlives the daemon, so that it may be
    /// remembered as told; it waits for no sink, but for the disk.
    ///
    /// A sink hears of nothing that is less severe than it wants. An Alertmanager also hears of the end of what it was told
    /// before, whoever is named: it would go on for ever otherwise.
    pub fn notify(&self, notification: &Arc<Notification>, sinks: &[String]) {
        for (name, worker) in &*self.workers() {
            let is_meant = sinks.contains(name) && Severity::from(worker.sink.min_severity) <= notification.severity;
            let ends = notification.status == Status::Resolved
                && worker.target.keeps() == Keeps::Newest
                && worker.mailbox.holds_firing(&notification.fingerprint);
            if is_meant || ends {
                let id = EntryId(self.next_id.fetch_add(1, Ordering::Relaxed));
                worker.mailbox.post(id, Arc::clone(notification));
            }
        }
    }

    /// Tells one sink of a test, once and now.
    ///
    /// # Errors
    /// There is no such sink, or it did not take it.
    pub async fn test(&self, name: &str) -> Result<(), TestError> {
        let target = self.workers().get(name).map(|worker| Arc::clone(&worker.target));
        let target = target.ok_or_else(|| TestError::Unknown { name: name.to_owned() })?;
        let notification = Notification::test(&self.settings().host, name, SystemTime::now());
        Ok(target.deliver(&[Arc::new(notification)]).await?)
    }

    /// What each sink is doing, by name.
    pub fn statuses(&self) -> Vec<SinkStatus> {
        self.workers().values().map(|worker| worker.mailbox.status()).collect()
    }
}

/// Lets the tasks of sinks run until the end.
fn turn(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // Also when the other side is gone: there is nobody left to be told of.
    runtime.block_on(stopped).unwrap_or_default();
    runtime.shutdown_timeout(PATIENCE);
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tells sinks of alerts had panicked");
        }
    }
}

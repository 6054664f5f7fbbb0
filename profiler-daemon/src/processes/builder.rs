//! The threads that open and read the files of processes, so that the sampling loop never does.
//!
//! In: [`Job`]s. Out: [`Outcome`]s, applied when the loop polls for them. There are two lanes, one for objects whose tables
//! take long to compile: a service's own code and the C library do not wait for a compiler's or a tensor library's. All
//! queues are bounded; jobs that wait are kept in order. What a file holds may make a job fail, never the thread. A file
//! system that does not answer keeps a thread for good: another then takes its place, up to a bound, and other files of
//! that file system are left alone until it answers. A thread that waits for an answer uses no CPU; one that does, as in
//! compiling a large table on a busy host, gets on, however long it takes.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use rustix::{
    thread::{Pid as ThreadId, gettid},
    time::{ClockId, clock_gettime},
};

use super::{
    jobs::{Failure, Job, Outcome},
    reader::Reader,
    row_cache::RowCache,
    scan::ProcFs,
};

/// Jobs that may wait for each thread.
const MAX_WAITING: usize = 1 << 14;
/// Jobs handed to a thread ahead of time.
const QUEUE: usize = 64;
/// Outcomes that may wait to be applied.
const OUTCOMES: usize = 256;
/// Bytes of rows in them beyond which the threads wait before they go on.
const MAX_WAITING_ROW_BYTES: u64 = 64 << 20;
/// How long a job may use no CPU before its thread is given up.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// Least CPU time between two looks that counts: the kernel tells it in ticks.
const LEAST_PROGRESS: Duration = Duration::from_millis(10);
/// Threads of a lane that may be stuck at one time.
const MAX_STUCK: usize = 8;
/// How long they wait at a time.
const PAUSE: Duration = Duration::from_millis(2);

/// Holds the threads back while too many rows wait to be taken.
#[derive(Debug, Default)]
struct Gate {
    waiting_bytes: AtomicU64,
    closed: AtomicBool,
}

impl Gate {
    fn wait(&self) {
        while self.waiting_bytes.load(Ordering::Relaxed) > MAX_WAITING_ROW_BYTES && !self.closed.load(Ordering::Relaxed)
        {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Called whenever an outcome is ready.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

/// What a thread is doing.
#[derive(Debug)]
struct Task {
    /// When it began, or was last seen to get on.
    since: Instant,
    /// CPU time of the thread then.
    used: Duration,
    device: Option<u64>,
    subject: String,
}

/// One thread, as the loop sees it.
#[derive(Debug, Default)]
struct Worker {
    thread: OnceLock<ThreadId>,
    task: Mutex<Option<Task>>,
    /// It has taken too long, and another thread goes on in its place: it ends after its job.
    is_given_up: AtomicBool,
}

impl Worker {
    fn set_task(&self, task: Option<Task>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }

    /// Gives the thread up if its job has not got on for too long.
    fn give_up(&self, now: Instant) -> bool {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(task) = task.as_mut() else { return false };
        let used = self.thread.get().and_then(|thread| cpu_time(*thread));
        if let Some(used) = used.filter(|used| used.saturating_sub(task.used) >= LEAST_PROGRESS) {
            (task.since, task.used) = (now, used);
        }
        let is_stuck = now.saturating_duration_since(task.since) >= STUCK_AFTER;
        if is_stuck {
            self.is_given_up.store(true, Ordering::Relaxed);
        }
        is_stuck
    }

    fn with_task<T>(&self, look: impl FnOnce(&Task) -> T) -> Option<T> {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.as_ref().map(look)
    }
}

/// CPU time that a thread of this process has used, in whole ticks.
fn cpu_time(thread: ThreadId) -> Option<Duration> {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).ok()?;
    // The name before may hold anything; `utime` and `stime` are the 14th and 15th field (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<u64>().ok();
    let ticks = ticks()?.checked_add(ticks()?)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second))
}

/// CPU time that the calling thread has used.
fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// What all threads share.
#[derive(Clone)]
struct Shared {
    outbox: SyncSender<Outcome>,
    gate: Arc<Gate>,
    wake: Option<Wake>,
    /// Devices whose files do not answer.
    silent: Arc<Mutex<Vec<u64>>>,
    make_work: MakeWork,
}

/// Makes what does the jobs of a new thread.
type MakeWork = Arc<dyn Fn() -> Box<dyn FnMut(Job) -> Outcome + Send> + Send + Sync>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

/// The loop's end of the threads that take jobs from one queue. All but one of them are stuck.
#[derive(Debug)]
struct Lane {
    name: &'static str,
    waiting: VecDeque<Job>,
    jobs: SyncSender<Job>,
    inbox: Arc<Mutex<Receiver<Job>>>,
    shared: Shared,
    worker: Option<Arc<Worker>>,
    stuck: Vec<Arc<Worker>>,
}

impl Lane {
    fn start(name: &'static str, shared: Shared) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let mut lane = Self {
            name,
            waiting: VecDeque::new(),
            jobs,
            inbox: Arc::new(Mutex::new(inbox)),
            shared,
            worker: None,
            stuck: Vec::new(),
        };
        lane.start_worker()?;
        Ok(lane)
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let worker = Arc::new(Worker::default());
        let (own, inbox, shared) = (Arc::clone(&worker), Arc::clone(&self.inbox), self.shared.clone());
        // Not joined at the end: what it reads at that time may take long.
        std::thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || work(&own, &inbox, &shared))?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Gives up a thread that is stuck and starts another in its place, if not too many are.
    fn relieve(&mut self, now: Instant) {
        self.stuck.retain(|worker| worker.with_task(|_| ()).is_some());
        if let Some(worker) = self.worker.take_if(|worker| worker.give_up(now)) {
            self.stuck.push(worker);
        }
        if self.worker.is_none()
            && self.stuck.len() < MAX_STUCK
            && let Err(error) = self.start_worker()
        {
            tracing::warn!(%error, "no thread takes the place of one that is stuck");
        }
    }

    fn hand_over(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.jobs.try_send(job) {
                self.waiting.push_front(job);
                return;
            }
        }
    }
}

/// Takes jobs until there are no more, or until the thread is given up.
fn work(worker: &Worker, inbox: &Mutex<Receiver<Job>>, shared: &Shared) {
    worker.thread.get_or_init(gettid);
    let mut run = (shared.make_work)();
    while !worker.is_given_up.load(Ordering::Relaxed) {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        shared.gate.wait();
        let device = job.device();
        let is_silent = device.is_some_and(|device| {
            let silent = shared.silent.lock().unwrap_or_else(PoisonError::into_inner);
            silent.contains(&device)
        });
        let outcome = match job {
            Job::Build { object, place } if is_silent => Outcome::Built {
                object,
                pid: place.pid,
                result: Err(Failure {
                    reason: "its file system does not answer".to_owned(),
                    passes: true,
                }),
            },
            job => {
                worker.set_task(Some(Task {
                    since: Instant::now(),
                    used: own_cpu_time(),
                    device,
                    subject: job.subject(),
                }));
                let outcome = run(job);
                worker.set_task(None);
                outcome
            }
        };
        shared
            .gate
            .waiting_bytes
            .fetch_add(outcome.row_bytes(), Ordering::Relaxed);
        if shared.outbox.send(outcome).is_err() {
            return;
        }
        if let Some(wake) = &shared.wake {
            wake();
        }
    }
}

/// The loop's end of the threads.
#[derive(Debug)]
pub(super) struct Builder {
    ordinary: Lane,
    large: Lane,
    outcomes: Receiver<Outcome>,
    gate: Arc<Gate>,
    silent: Arc<Mutex<Vec<u64>>>,
    /// Jobs given and not yet answered.
    open: usize,
}

impl Builder {
    /// Starts the threads. They read `/proc` under the given root, and keep rows on disk.
    pub(super) fn start(proc: &ProcFs, rows: Arc<RowCache>, wake: Option<Wake>) -> io::Result<Self> {
        let proc = proc.clone();
        let make_work: MakeWork = Arc::new(move || {
            let mut reader = Reader::new(proc.clone(), Arc::clone(&rows));
            Box::new(move |job| reader.run(job))
        });
        Self::start_with(make_work, wake)
    }

    fn start_with(make_work: MakeWork, wake: Option<Wake>) -> io::Result<Self> {
        let (outbox, outcomes) = sync_channel(OUTCOMES);
        let shared = Shared {
            outbox,
            gate: Arc::default(),
            wake,
            silent: Arc::default(),
            make_work,
        };
        Ok(Self {
            ordinary: Lane::start("objects", shared.clone())?,
            large: Lane::start("large-objects", shared.clone())?,
            outcomes,
            gate: shared.gate,
            silent: shared.silent,
            open: 0,
        })
    }

    /// Gives up threads that are stuck, and returns what they are about, with the number of lanes that stand still because
    /// of them. Called from time to time.
    pub(super) fn relieve(&mut self, now: Instant) -> (Vec<String>, usize) {
        let (mut subjects, mut devices, mut standing) = (Vec::new(), Vec::new(), 0);
        for lane in [&mut self.ordinary, &mut self.large] {
            lane.relieve(now);
            standing += usize::from(lane.worker.is_none());
            for worker in &lane.stuck {
                let task = worker.with_task(|task| (task.subject.clone(), task.device));
                if let Some((subject, device)) = task {
                    subjects.push(subject);
                    devices.extend(device);
                }
            }
        }
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = devices;
        (subjects, standing)
    }

    /// Takes a job, or gives it back if too many wait.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Job> {
        let lane = if job.is_large() {
            &mut self.large
        } else {
            &mut self.ordinary
        };
        if lane.waiting.len() >= MAX_WAITING {
            return Err(job);
        }
        lane.waiting.push_back(job);
        lane.hand_over();
        self.open += 1;
        Ok(())
    }

    /// The next outcome, if one is ready.
    pub(super) fn poll(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok();
        if let Some(outcome) = &outcome {
            self.open = self.open.saturating_sub(1);
            self.gate
                .waiting_bytes
                .fetch_sub(outcome.row_bytes(), Ordering::Relaxed);
        }
        self.ordinary.hand_over();
        self.large.hand_over();
        outcome
    }

    /// Jobs given and not yet answered.
    pub(super) fn open(&self) -> usize {
        self.open
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.gate.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

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
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        kernel::records::Pid,
        processes::{files::MappedPlace, jobs::LARGE_CODE_BYTES, objects::MappedObject, process::ImageId},
    };

    fn wait(builder: &mut Builder) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(outcome) = builder.poll() {
                return outcome;
            }
            assert!(Instant::now() < deadline, "the builder is silent");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn builder() -> Builder {
        let rows = RowCache::new("".as_ref(), 0, Arc::default());
        Builder::start(&ProcFs::new("/proc"), Arc::new(rows), None).unwrap()
    }

    #[test]
    fn the_vdso_has_rows() {
        let mut builder = builder();
        let vdso = super::super::objects::Objects::new().vdso;
        builder
            .submit(Job::BuildVdso {
                object: Arc::clone(&vdso),
            })
            .unwrap();
        let Outcome::Built { result, .. } = wait(&mut builder) else {
            panic!("another outcome")
        };
        let (built, table) = result.unwrap();
        assert!(built.unwind.is_ok() && !table.unwrap().table.rows.is_empty());
        vdso.fill(built);
        builder.submit(Job::Compile { object: vdso }).unwrap();
        let Outcome::Compiled { result, .. } = wait(&mut builder) else {
            panic!("another outcome")
        };
        assert!(result.is_ok());
        assert_eq!(builder.open(), 0);
    }

    #[test]
    fn this_process_is_rust_and_its_files_are_built_once() {
        let mut builder = builder();
        let pid = Pid(std::process::id());
        builder
            .submit(Job::Identify {
                image: ImageId(1),
                pid,
                services: Arc::default(),
            })
            .unwrap();
        let Outcome::Identified { result, .. } = wait(&mut builder) else {
            panic!("another outcome")
        };
        let identity = result.unwrap();
        assert!(identity.marks.rust && !identity.executable.is_empty() && !identity.service.is_empty());

        let scan = ProcFs::new("/proc").maps(pid).unwrap();
        let record = scan
            .executable
            .iter()
            .find(|record| record.path == identity.executable)
            .unwrap();
        let place = MappedPlace {
            pid,
            start: record.start,
            end: record.start + record.length,
            device_inode: record.device_inode,
            path: record.path.clone(),
        };
        let mut tables = Vec::new();
        let objects: Vec<_> = (0..2)
            .map(|_| Arc::new(MappedObject::file(&record.path, None)))
            .collect();
        let mut kept = Vec::new();
        for object in &objects {
            builder
                .submit(Job::Build {
                    object: Arc::clone(object),
                    place: place.clone(),
                })
                .unwrap();
            let Outcome::Built { result, .. } = wait(&mut builder) else {
                panic!("another outcome")
            };
            let (built, table) = result.unwrap();
            assert!(built.segments.bias(record.start, record.file_offset).is_some());
            tables.push(table.is_some());
            kept.push(built);
        }
        assert_eq!(tables, [true, false]);
        assert!(Arc::ptr_eq(&kept[0], &kept[1]));
    }

    #[test]
    fn large_objects_have_their_own_thread_and_rows_that_wait_hold_it_back() {
        let mut builder = builder();
        let place = |end| MappedPlace {
            pid: Pid(u32::MAX),
            start: 0,
            end,
            device_inode: None,
            path: b"/none".to_vec(),
        };
        let object = || Arc::new(MappedObject::file(b"/none", None));
        // Nothing is taken from the lane of large objects while its gate is shut.
        builder.gate.waiting_bytes.store(u64::MAX / 2, Ordering::Relaxed);
        let shut = Job::Build {
            object: object(),
            place: place(LARGE_CODE_BYTES),
        };
        assert!(shut.is_large());
        builder.submit(shut).unwrap();
        let small = Job::Build {
            object: object(),
            place: place(LARGE_CODE_BYTES - 1),
        };
        assert!(!small.is_large());
        std::thread::sleep(Duration::from_millis(20));
        assert!(builder.poll().is_none());
        builder.gate.waiting_bytes.store(0, Ordering::Relaxed);
        builder.submit(small).unwrap();
        wait(&mut builder);
        wait(&mut builder);
        assert_eq!(builder.open(), 0);
    }

    #[test]
    fn a_file_system_that_does_not_answer_keeps_one_thread_and_no_more() {
        let (release, blocked) = sync_channel::<()>(0);
        let blocked = Arc::new(Mutex::new(blocked));
        let make_work: MakeWork = Arc::new(move || {
            let blocked = Arc::clone(&blocked);
            Box::new(move |job| match job {
                Job::Build { object, place } => {
                    if place.path == b"/hung/a" {
                        blocked.lock().unwrap().recv().unwrap();
                    }
                    let result = Err(Failure::from("read".to_owned()));
                    Outcome::Built {
                        object,
                        pid: place.pid,
                        result,
                    }
                }
                _ => panic!("another job"),
            })
        });
        let mut builder = Builder::start_with(make_work, None).unwrap();
        let submit = |builder: &mut Builder, path: &[u8], device| {
            let place = MappedPlace {
                pid: Pid(7),
                start: 0,
                end: 1,
                device_inode: Some((device, 1)),
                path: path.to_vec(),
            };
            let object = Arc::new(MappedObject::file(path, place.device_inode));
            builder.submit(Job::Build { object, place }).unwrap();
        };
        submit(&mut builder, b"/hung/a", 1);
        submit(&mut builder, b"/hung/b", 1);
        submit(&mut builder, b"/other", 2);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(builder.relieve(Instant::now()), (Vec::new(), 0));
        assert!(builder.poll().is_none(), "the thread waits");
        let later = Instant::now() + STUCK_AFTER;
        assert_eq!(builder.relieve(later), (vec!["/hung/a of process 7".to_owned()], 0));
        let mut reasons = Vec::new();
        for _ in 0..2 {
            let Outcome::Built {
                result: Err(failure), ..
            } = wait(&mut builder)
            else {
                panic!("another outcome")
            };
            reasons.push((failure.reason, failure.passes));
        }
        // The thread that took the place may have been faster than word of the device.
        assert!(reasons.contains(&("read".to_owned(), false)), "{reasons:?}");
        submit(&mut builder, b"/hung/c", 1);
        let Outcome::Built {
            result: Err(failure), ..
        } = wait(&mut builder)
        else {
            panic!("another outcome")
        };
        assert!(failure.passes, "{failure:?}");
        // When it answers at last, its outcome counts, and its files are read again.
        release.send(()).unwrap();
        wait(&mut builder);
        assert_eq!(builder.open(), 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !builder.relieve(Instant::now()).0.is_empty() {
            assert!(Instant::now() < deadline);
        }
        submit(&mut builder, b"/hung/d", 1);
        let Outcome::Built {
            result: Err(failure), ..
        } = wait(&mut builder)
        else {
            panic!("another outcome")
        };
        assert!(!failure.passes);
    }

    #[test]
    fn slow_work_is_no_silent_file_system() {
        let (done, end) = sync_channel::<()>(1);
        let end = Arc::new(Mutex::new(end));
        // Computes until it is told to stop.
        let make_work: MakeWork = Arc::new(move || {
            let end = Arc::clone(&end);
            Box::new(move |job| match job {
                Job::Compile { object } => {
                    while end.lock().unwrap().try_recv().is_err() {
                        std::hint::black_box((0..10_000_u64).fold(0_u64, u64::wrapping_add));
                    }
                    let result = Err("computed".to_owned());
                    Outcome::Compiled { object, result }
                }
                _ => panic!("another job"),
            })
        });
        let mut builder = Builder::start_with(make_work, None).unwrap();
        let object = Arc::new(MappedObject::file(b"/large", Some((1, 1))));
        builder.submit(Job::Compile { object }).unwrap();
        // Each look is as late as if the host had been busy with other things since.
        let mut later = Instant::now();
        for _ in 0..5 {
            let worker = Arc::clone(builder.ordinary.worker.as_ref().unwrap());
            let gets_on = || {
                let used = cpu_time(*worker.thread.get()?)?;
                Some(used >= worker.with_task(|task| task.used)? + LEAST_PROGRESS)
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            while gets_on() != Some(true) {
                assert!(Instant::now() < deadline, "it does not compute");
                std::thread::sleep(Duration::from_millis(1));
            }
            later += STUCK_AFTER;
            assert_eq!(builder.relieve(later), (Vec::new(), 0));
        }
        done.send(()).unwrap();
        assert!(matches!(wait(&mut builder), Outcome::Compiled { .. }));
        assert_eq!(builder.open(), 0);
    }

    #[test]
    fn failures_are_answers() {
        let mut builder = builder();
        let object = Arc::new(MappedObject::file(b"/none", None));
        let place = MappedPlace {
            pid: Pid(u32::MAX),
            start: 0,
            end: 1,
            device_inode: None,
            path: b"/none".to_vec(),
        };
        builder
            .submit(Job::Build {
                object: Arc::clone(&object),
                place,
            })
            .unwrap();
        assert!(matches!(wait(&mut builder), Outcome::Built { result: Err(_), .. }));
        builder.submit(Job::Compile { object }).unwrap();
        assert!(matches!(wait(&mut builder), Outcome::Compiled { result: Err(_), .. }));
        builder
            .submit(Job::Identify {
                image: ImageId(1),
                pid: Pid(u32::MAX),
                services: Arc::default(),
            })
            .unwrap();
        assert!(matches!(wait(&mut builder), Outcome::Identified { result: Err(_), .. }));
    }
}

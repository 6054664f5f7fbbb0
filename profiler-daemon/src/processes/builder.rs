//! The threads that open and read the files of processes, so that the sampling loop never does.
//!
//! In: [`Job`]s. Out: [`Outcome`]s, applied when the loop polls for them. There are two threads, one for objects whose tables
//! take long to compile: a service's own code and the C library do not wait for a compiler's or a tensor library's. All
//! queues are bounded; jobs that wait are kept in order. What a file holds may make a job fail, never the thread.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use profiler_unwinding::RowTable;

use super::{
    discovery::Marks,
    files::MappedPlace,
    objects::{Built, MappedObject},
    process::ImageId,
    reader::Reader,
    row_cache::RowCache,
    scan::ProcFs,
};
use crate::kernel::records::Pid;

/// Jobs that may wait for each thread.
const MAX_WAITING: usize = 1 << 14;
/// Bytes of code in an object from which on its table takes long: some hundred milliseconds.
const LARGE_CODE_BYTES: u64 = 8 << 20;
/// The same in rows.
const LARGE_ROWS: u64 = 1 << 18;
/// Jobs handed to a thread ahead of time.
const QUEUE: usize = 64;
/// Outcomes that may wait to be applied.
const OUTCOMES: usize = 256;
/// Bytes of rows in them beyond which the threads wait before they go on.
const MAX_WAITING_ROW_BYTES: u64 = 64 << 20;
/// How long they wait at a time.
const PAUSE: Duration = Duration::from_millis(2);

/// Something to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Open the file that is mapped at a place, and read what the object needs.
    Build {
        object: Arc<MappedObject>,
        place: MappedPlace,
    },
    /// Read the kernel's shared object from the daemon's own memory.
    BuildVdso { object: Arc<MappedObject> },
    /// Compile the rows of an object again.
    Compile { object: Arc<MappedObject> },
    /// Find out what a process is.
    Identify { image: ImageId, pid: Pid },
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Built {
        object: Arc<MappedObject>,
        pid: Pid,
        result: Result<(Arc<Built>, Option<RowTable>), String>,
    },
    Compiled {
        object: Arc<MappedObject>,
        result: Result<RowTable, String>,
    },
    Identified {
        image: ImageId,
        result: Result<Identity, String>,
    },
}

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) executable: Vec<u8>,
    pub(super) user_id: u32,
    pub(super) service: Arc<str>,
    pub(super) marks: Marks,
}

impl Job {
    fn is_large(&self) -> bool {
        match self {
            Self::Build { place, .. } => place.end.saturating_sub(place.start) >= LARGE_CODE_BYTES,
            Self::Compile { object } => {
                let summary = object.built().and_then(|built| built.unwind.as_ref().ok());
                summary.is_some_and(|summary| summary.rows >= LARGE_ROWS)
            }
            Self::BuildVdso { .. } | Self::Identify { .. } => false,
        }
    }
}

impl Outcome {
    fn row_bytes(&self) -> u64 {
        let table = match self {
            Self::Built {
                result: Ok((_, Some(table))),
                ..
            }
            | Self::Compiled { result: Ok(table), .. } => table,
            _ => return 0,
        };
        (size_of_val(table.rows.as_slice()) + size_of_val(table.pages.as_slice())) as u64
    }
}

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

/// The loop's end of one thread.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Job>,
    jobs: SyncSender<Job>,
}

impl Lane {
    fn start(
        name: &str,
        reader: Reader,
        outbox: SyncSender<Outcome>,
        gate: Arc<Gate>,
        wake: Option<Wake>,
    ) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        // Not joined at the end: what it reads at that time may take long.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut reader = reader;
            while let Ok(job) = inbox.recv() {
                gate.wait();
                let outcome = reader.run(job);
                gate.waiting_bytes.fetch_add(outcome.row_bytes(), Ordering::Relaxed);
                if outbox.send(outcome).is_err() {
                    return;
                }
                if let Some(wake) = &wake {
                    wake();
                }
            }
        })?;
        Ok(Self {
            waiting: VecDeque::new(),
            jobs,
        })
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

/// The loop's end of the threads.
#[derive(Debug)]
pub(super) struct Builder {
    ordinary: Lane,
    large: Lane,
    outcomes: Receiver<Outcome>,
    gate: Arc<Gate>,
    /// Jobs given and not yet answered.
    open: usize,
}

impl Builder {
    /// Starts the threads. They read `/proc` under the given root, and keep rows on disk.
    pub(super) fn start(proc: &ProcFs, rows: Arc<RowCache>, wake: Option<Wake>) -> io::Result<Self> {
        let (outbox, outcomes) = sync_channel(OUTCOMES);
        let gate = Arc::new(Gate::default());
        let lane = |name| {
            let reader = Reader::new(proc.clone(), Arc::clone(&rows));
            Lane::start(name, reader, outbox.clone(), Arc::clone(&gate), wake.clone())
        };
        Ok(Self {
            ordinary: lane("objects")?,
            large: lane("large-objects")?,
            outcomes,
            gate,
            open: 0,
        })
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
        assert!(built.unwind.is_ok() && !table.unwrap().rows.is_empty());
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
        builder.submit(Job::Identify { image: ImageId(1), pid }).unwrap();
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
            })
            .unwrap();
        assert!(matches!(wait(&mut builder), Outcome::Identified { result: Err(_), .. }));
    }
}

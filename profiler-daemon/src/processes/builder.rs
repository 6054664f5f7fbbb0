//! The one thread that opens and reads the files of processes, so that the sampling loop never does.
//!
//! In: [`Job`]s. Out: [`Outcome`]s, applied when the loop polls for them. Both queues are bounded; jobs that wait are kept in
//! order. What a file holds may make a job fail, never the thread.

use std::{
    collections::{HashMap, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use object::ReadCache;
use profiler_unwinding::{ContentId, RowTable, Segments};

use super::{
    discovery::{self, Marks},
    files::{BoundedFile, MappedPlace, TargetFile, open_executable, open_mapped},
    objects::{Built, MappedObject, ObjectKind},
    process::ImageId,
    scan::{ProcFs, ScanError},
    service,
    unwind::{self, UnwindSummary},
};
use crate::{
    kernel::records::Pid,
    stacks::window::{CodeObject, CodeSource, FileIdentity},
};

/// Jobs that may wait.
pub(super) const MAX_WAITING: usize = 1 << 14;
/// Jobs handed to the thread ahead of time.
const QUEUE: usize = 64;
/// Outcomes that may wait to be applied.
const OUTCOMES: usize = 256;
/// Bytes of rows in them beyond which the thread waits before it goes on.
const MAX_WAITING_ROW_BYTES: u64 = 64 << 20;
/// How long it waits at a time.
const PAUSE: Duration = Duration::from_millis(2);
/// Most bytes that are read of one object for its unwind rows.
const MAX_OBJECT_BYTES: u64 = 160 << 20;
/// Files whose marks are remembered.
const MAX_REMEMBERED_MARKS: usize = 8192;
/// Mappings of an unwatched process that are looked at for an interpreter.
const MAX_INTERPRETER_CANDIDATES: usize = 4;
/// Largest vDSO.
const MAX_VDSO_BYTES: u64 = 1 << 20;

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

/// Holds the thread back while too many rows wait to be taken.
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

/// The loop's end of the thread.
#[derive(Debug)]
pub(super) struct Builder {
    waiting: VecDeque<Job>,
    jobs: SyncSender<Job>,
    outcomes: Receiver<Outcome>,
    gate: Arc<Gate>,
    /// Jobs given and not yet answered.
    open: usize,
}

impl Builder {
    /// Starts the thread. It reads `/proc` under the given root, and calls `wake` whenever an outcome is ready.
    pub(super) fn start(proc: ProcFs, wake: Option<Box<dyn Fn() + Send>>) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let (outbox, outcomes) = sync_channel(OUTCOMES);
        let gate = Arc::new(Gate::default());
        let own_gate = Arc::clone(&gate);
        // Not joined at the end: what it reads at that time may take long.
        std::thread::Builder::new().name("objects".into()).spawn(move || {
            let mut reader = Reader::new(proc);
            while let Ok(job) = inbox.recv() {
                own_gate.wait();
                let outcome = reader.run(job);
                own_gate.waiting_bytes.fetch_add(outcome.row_bytes(), Ordering::Relaxed);
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
            outcomes,
            gate,
            open: 0,
        })
    }

    /// Takes a job, or gives it back if too many wait.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(job);
        }
        self.waiting.push_back(job);
        self.open += 1;
        self.hand_over();
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
        self.hand_over();
        outcome
    }

    /// Jobs given and not yet answered.
    pub(super) fn open(&self) -> usize {
        self.open
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

impl Drop for Builder {
    fn drop(&mut self) {
        self.gate.closed.store(true, Ordering::Relaxed);
    }
}

/// The thread's own state.
struct Reader {
    proc: ProcFs,
    built: HashMap<FileIdentity, Weak<Built>>,
    unwind: HashMap<ContentId, Weak<UnwindSummary>>,
    marks: HashMap<FileIdentity, Marks>,
}

impl Reader {
    fn new(proc: ProcFs) -> Self {
        Self {
            proc,
            built: HashMap::new(),
            unwind: HashMap::new(),
            marks: HashMap::new(),
        }
    }

    fn run(&mut self, job: Job) -> Outcome {
        match job {
            Job::Build { object, place } => {
                let result = guarded(|| self.build(&object, &place));
                Outcome::Built {
                    object,
                    pid: place.pid,
                    result,
                }
            }
            Job::BuildVdso { object } => {
                let result = guarded(|| self.build_vdso(&object));
                Outcome::Built {
                    object,
                    pid: Pid(0),
                    result,
                }
            }
            Job::Compile { object } => {
                let result = guarded(|| self.compile_again(&object));
                Outcome::Compiled { object, result }
            }
            Job::Identify { image, pid } => Outcome::Identified {
                image,
                result: guarded(|| self.identify(pid)),
            },
        }
    }

    fn build(&mut self, object: &MappedObject, place: &MappedPlace) -> Result<(Arc<Built>, Option<RowTable>), String> {
        let file = open_mapped(&self.proc, place).map_err(|error| error.to_string())?;
        if let Some(built) = self.built.get(&file.identity).and_then(Weak::upgrade) {
            return Ok((built, None));
        }
        let marks = self.examine(&file);
        let remote = is_remote(&file);
        let cache = ReadCache::new(BoundedFile::new(
            &file.descriptor,
            file.identity.length,
            MAX_OBJECT_BYTES,
        ));
        let segments = Segments::parse(&cache);
        let (unwind, table) = match &segments {
            Ok(_) => self.compile(&cache),
            Err(error) => (Err(error.to_string()), None),
        };
        drop(cache);
        let identity = file.identity;
        let source = CodeSource::File {
            identity,
            descriptor: file.descriptor,
        };
        let built = Arc::new(Built {
            code: Arc::new(CodeObject {
                name: Arc::clone(&object.name),
                source,
            }),
            segments: segments.unwrap_or_default(),
            unwind,
            marks,
            remote,
        });
        forget_dead(&mut self.built);
        self.built.insert(identity, Arc::downgrade(&built));
        Ok((built, table))
    }

    fn build_vdso(&mut self, object: &MappedObject) -> Result<(Arc<Built>, Option<RowTable>), String> {
        debug_assert_eq!(object.kind, ObjectKind::Vdso);
        let image = own_vdso(&self.proc).map_err(|error| error.to_string())?;
        let segments = Segments::parse(&image[..]).map_err(|error| error.to_string())?;
        let (unwind, table) = self.compile(&image[..]);
        let code = Arc::new(CodeObject {
            name: Arc::clone(&object.name),
            source: CodeSource::Vdso,
        });
        Ok((
            Arc::new(Built {
                code,
                segments,
                unwind,
                marks: Marks::default(),
                remote: false,
            }),
            table,
        ))
    }

    /// Compiles rows, unless equal content was compiled before and its summary is still in use.
    fn compile<'data, R: object::ReadRef<'data>>(
        &mut self,
        data: R,
    ) -> (Result<Arc<UnwindSummary>, String>, Option<RowTable>) {
        let mut shared = None;
        let compiled = unwind::compile(data, |content| {
            shared = self.unwind.get(content).and_then(Weak::upgrade);
            shared.is_some()
        });
        match (compiled, shared) {
            (Ok(_), Some(summary)) => (Ok(summary), None),
            (Ok((content, Some(table))), None) => {
                let summary = Arc::new(UnwindSummary::of(content, &table));
                forget_dead(&mut self.unwind);
                self.unwind.insert(content, Arc::downgrade(&summary));
                (Ok(summary), Some(table))
            }
            (Ok((_, None)), None) => (Err("its unwind table was not compiled".to_owned()), None),
            (Err(error), _) => (Err(error.to_string()), None),
        }
    }

    fn compile_again(&mut self, object: &MappedObject) -> Result<RowTable, String> {
        let built = object.built().ok_or("the object was never built")?;
        let compiled = match &built.code.source {
            CodeSource::File { identity, descriptor } => unwind::compile(
                &ReadCache::new(BoundedFile::new(descriptor, identity.length, MAX_OBJECT_BYTES)),
                |_| false,
            ),
            CodeSource::Vdso => {
                let image = own_vdso(&self.proc).map_err(|error| error.to_string())?;
                unwind::compile(&image[..], |_| false)
            }
            CodeSource::Opaque { reason } => return Err(reason.clone()),
        };
        let (content, table) = compiled.map_err(|error| error.to_string())?;
        // Rows of other content would give wrong stacks to all who share the id.
        match (&built.unwind, table) {
            (Ok(summary), Some(table)) if summary.content == content => Ok(table),
            _ => Err("the file has changed".to_owned()),
        }
    }

    fn identify(&mut self, pid: Pid) -> Result<Identity, String> {
        let fail = |error: ScanError| error.to_string();
        let executable = self.proc.executable(pid).map_err(fail)?;
        let user_id = self.proc.user_id(pid).map_err(fail)?;
        // Without cgroups a process has no service but itself.
        let cgroup = self.proc.cgroup(pid).unwrap_or_default();
        let program = open_executable(&self.proc, pid).map_err(|error| error.to_string())?;
        let mut marks = self.examine(&program);
        if !marks.python {
            marks.python = self.maps_interpreter(pid);
        }
        let service = service::name(&cgroup, &executable).into();
        Ok(Identity {
            executable,
            user_id,
            service,
            marks,
        })
    }

    /// Whether the process maps a Python interpreter. The names of libraries say which are worth a look, their content
    /// decides.
    fn maps_interpreter(&mut self, pid: Pid) -> bool {
        let Ok(scan) = self.proc.maps(pid) else { return false };
        let candidates = scan.executable.iter().filter(|record| {
            let base = record.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            base.starts_with(b"libpython")
        });
        candidates.take(MAX_INTERPRETER_CANDIDATES).any(|record| {
            let place = MappedPlace {
                pid,
                start: record.start,
                end: record.start.saturating_add(record.length),
                device_inode: record.device_inode,
                path: record.path.clone(),
            };
            open_mapped(&self.proc, &place).is_ok_and(|file| self.examine(&file).python)
        })
    }

    fn examine(&mut self, file: &TargetFile) -> Marks {
        if let Some(marks) = self.marks.get(&file.identity) {
            return *marks;
        }
        let marks = discovery::examine(&file.descriptor, &file.identity);
        if self.marks.len() >= MAX_REMEMBERED_MARKS {
            self.marks.clear();
        }
        self.marks.insert(file.identity, marks);
        marks
    }
}

/// Runs a job whose input may be made to break it.
fn guarded<T>(job: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err("reading it failed inside the profiler".to_owned()))
}

/// Drops what nobody holds any more, when there is as much of it as to be worth the walk.
fn forget_dead<K, V>(entries: &mut HashMap<K, Weak<V>>) {
    if entries.len() == entries.capacity() {
        entries.retain(|_, entry| entry.strong_count() > 0);
    }
}

/// Whether the file lies on a file system that asks somebody else: FUSE, NFS, CIFS, SMB, 9P, Ceph (`…_SUPER_MAGIC`, from
/// `include/uapi/linux/magic.h` and the file systems' own headers).
fn is_remote(file: &TargetFile) -> bool {
    const REMOTE: [u64; 6] = [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];
    rustix::fs::fstatfs(&file.descriptor).is_ok_and(|system| REMOTE.contains(&(system.f_type as u64)))
}

/// The kernel's shared object as the daemon itself has it mapped: it is the same in every 64-bit process.
pub(crate) fn own_vdso(proc: &ProcFs) -> Result<Vec<u8>, ScanError> {
    let own = Pid(std::process::id());
    let scan = proc.maps(own)?;
    let record = scan
        .executable
        .iter()
        .find(|record| record.path == b"[vdso]")
        .ok_or(ScanError::Gone)?;
    let path = proc.path(own, "mem");
    let read = || {
        let memory = std::fs::File::open(&path)?;
        let mut image = vec![0; usize::try_from(record.length.min(MAX_VDSO_BYTES)).unwrap_or_default()];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, record.start)?;
        Ok(image)
    };
    read().map_err(|reason| ScanError::Failed {
        path: path.clone(),
        reason,
    })
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
        Builder::start(ProcFs::new("/proc"), None).unwrap()
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
        let broken: Result<(), String> = guarded(|| panic!("on purpose"));
        assert!(broken.is_err());
    }
}

//! The owner of all processes: what it holds, and what lifecycle records do to it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use profiler_config::Targets;

use super::{
    builder::{Builder, Job},
    discovery::Marks,
    mappings::Mapping,
    objects::{MappedObject, Objects},
    process::{Clock, Identification, Image, ImageId, Now, Program, StartError},
    scan::{ProcFs, without_deleted_mark},
    tables::RowTables,
    walker_tables::WalkerTables,
    watching::Stream,
};
use crate::{
    command::WatchId,
    kernel::records::{Lifecycle, LifecycleEvent, MapRecord, Pid},
};

/// Processes known at one time, watched or not.
const MAX_KNOWN: usize = 1 << 16;
/// Mappings followed of a process of which nobody knows yet whether it is to be watched.
const MAX_UNDECIDED_MAPPINGS: usize = 256;
/// Longest path of a mapping that is kept (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;
/// Programs whose marks are remembered by device and inode.
pub(super) const MAX_PROGRAMS: usize = 4096;
/// How long what a program is is taken to be true without looking again: nothing holds its inode.
const PROGRAM_LIFETIME_NS: u64 = 60_000_000_000;

/// What the owner of processes is made with.
pub struct Options {
    /// Where `/proc` is.
    pub proc_root: PathBuf,
    /// Which processes are watched.
    pub targets: Targets,
    /// The daemon itself.
    pub own_pid: Pid,
    /// Turns times of the kernel into times of day.
    pub clock: Clock,
    /// Called from another thread whenever [`Processes::poll`] has something to apply.
    pub wake: Option<Box<dyn Fn() + Send>>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("proc_root", &self.proc_root)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

/// What the owner has seen, for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Lifecycle records taken.
    pub records: u64,
    /// Records of processes that are not known; most are of processes that nobody watches.
    pub records_of_unknown: u64,
    /// Lifecycle records that the kernel dropped.
    pub lost_records: u64,
    /// Times that all processes were read again from `/proc` because of that.
    pub repairs: u64,
    /// Processes not taken in because too many are known.
    pub refused_processes: u64,
    /// Jobs not given to the builder because too many wait.
    pub refused_jobs: u64,
}

/// A program as it was when it was last looked at.
#[derive(Debug)]
pub(super) struct KnownProgram {
    pub(super) path: Box<[u8]>,
    pub(super) marks: Marks,
    pub(super) seen_ns: u64,
}

/// The one owner of what we know of each process.
#[derive(Debug)]
pub struct Processes<T> {
    pub(super) walker: T,
    pub(super) proc: ProcFs,
    pub(super) targets: Targets,
    pub(super) own_pid: Pid,
    pub(super) clock: Clock,
    pub(super) builder: Builder,
    pub(super) objects: Objects,
    pub(super) tables: RowTables,
    pub(super) programs: HashMap<(u64, u64), KnownProgram>,
    pub(super) images: HashMap<ImageId, Image>,
    /// The images of each process in the order of time.
    pub(super) by_pid: HashMap<Pid, Vec<ImageId>>,
    /// Images that ended, with the time at which that was learnt.
    pub(super) ended: VecDeque<(u64, ImageId)>,
    /// Mappings of those.
    pub(super) ended_mappings: usize,
    /// The running images that are watched.
    pub(super) watched: HashSet<ImageId>,
    /// Images whose walker entry may have to be written.
    pub(super) dirty: HashSet<ImageId>,
    pub(super) streams: HashMap<WatchId, Stream>,
    pub(super) leaderless: HashSet<ImageId>,
    pub(super) tallies: Tallies,
    pub(super) next_image: u64,
    pub(super) repair_due: bool,
    pub(super) last_repair_ns: u64,
    pub(super) last_poll_ns: u64,
    pub(super) last_housekeeping_ns: u64,
}

impl<T: WalkerTables> Processes<T> {
    /// An owner that knows no process yet. Call [`Self::scan`] once the lifecycle records flow.
    pub fn new(walker: T, options: Options) -> Result<Self, StartError> {
        let proc = ProcFs::new(options.proc_root);
        let builder = Builder::start(proc.clone(), options.wake).map_err(|reason| StartError::Thread { reason })?;
        let mut processes = Self {
            walker,
            proc,
            targets: options.targets,
            own_pid: options.own_pid,
            clock: options.clock,
            builder,
            objects: Objects::new(),
            tables: RowTables::default(),
            programs: HashMap::new(),
            images: HashMap::new(),
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            ended_mappings: 0,
            watched: HashSet::new(),
            dirty: HashSet::new(),
            streams: HashMap::new(),
            leaderless: HashSet::new(),
            tallies: Tallies::default(),
            next_image: 1,
            repair_due: false,
            last_repair_ns: 0,
            last_poll_ns: 0,
            last_housekeeping_ns: 0,
        };
        let vdso = Arc::clone(&processes.objects.vdso);
        vdso.note_asked();
        processes.submit(Job::BuildVdso { object: vdso });
        Ok(processes)
    }

    /// The walker's tables.
    pub fn walker(&self) -> &T {
        &self.walker
    }

    /// The walker's tables, for what else their owner does with them. Entries of processes are written here alone.
    pub fn walker_mut(&mut self) -> &mut T {
        &mut self.walker
    }

    /// What was seen so far.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Takes a record. What follows for the walker is done by the next [`Self::poll`], once for all records of a batch.
    pub fn on_lifecycle(&mut self, record: &Lifecycle, now: Now) {
        self.tallies.records += 1;
        let time_ns = record.time_ns;
        match &record.event {
            LifecycleEvent::Fork { pid, parent } => self.on_fork(time_ns, *pid, *parent, now),
            LifecycleEvent::Exec { pid, name } => self.on_exec(time_ns, *pid, name, now),
            LifecycleEvent::Rename { pid, tid, name } => {
                if *tid == pid.0
                    && let Some(image) = self.image_at_mut(*pid, time_ns)
                    && image.name.as_bytes() != name.as_slice()
                {
                    image.name = String::from_utf8_lossy(name).into();
                }
            }
            LifecycleEvent::Exit { pid } => self.on_exit(time_ns, *pid, now),
            LifecycleEvent::Map { pid, mapping } => self.on_map(time_ns, *pid, mapping, now),
            LifecycleEvent::Lost { count } => {
                self.tallies.lost_records += count;
                self.repair_due = true;
            }
        }
    }

    fn on_fork(&mut self, time_ns: u64, pid: Pid, parent: Pid, now: Now) {
        let mut until_ns = u64::MAX;
        if let Some(existing) = self.running(pid) {
            if existing.scanned_ns > time_ns {
                // It was found by a scan after this: what the record tells is known.
                return;
            }
            if existing.from_ns > time_ns {
                // Its exec was heard of first; this is what ran before it.
                until_ns = existing.from_ns;
            } else {
                // The id belongs to a new process: the exit of the old one was missed.
                let id = existing.id;
                self.end_image(id, time_ns, now);
            }
        }
        let Some(parent) = self.image_at(parent, time_ns).filter(|parent| parent.tracked) else {
            return;
        };
        let start = self.clock.of_monotonic(time_ns);
        let mut child = Image::new(ImageId(0), pid, time_ns, start, b"");
        child.name = Arc::clone(&parent.name);
        child.to_ns = until_ns;
        child.program = parent.program.clone();
        child.marks = parent.marks;
        child.identification = match &parent.identification {
            Identification::Known(identity) => Identification::Known(Arc::clone(identity)),
            _ => Identification::NotAsked,
        };
        child.mappings = match parent.mappings.last_change(u64::MAX) <= time_ns {
            true => Arc::clone(&parent.mappings),
            false => Arc::new(parent.mappings.as_of(time_ns)),
        };
        child.tracked = true;
        child.maps_truncated = parent.maps_truncated;
        // A request is for the process that it names; what was discovered is true of its children as well.
        child.watch.discovered = parent.watch.discovered;
        child.walker.has_entry = parent.walker.has_entry;
        // The kernel copied the entry that it had at that time, which need not be the one written last.
        child.walker.must_write = true;
        let Some(id) = self.insert(child) else { return };
        if until_ns == u64::MAX {
            self.dirty.insert(id);
            self.decide(id, now);
        } else {
            self.note_ended(id, now);
        }
    }

    fn on_exec(&mut self, time_ns: u64, pid: Pid, name: &[u8], now: Now) {
        let mut image = Image::new(ImageId(0), pid, time_ns, self.clock.of_monotonic(time_ns), name);
        image.tracked = true;
        if let Some(old) = self.running(pid) {
            if old.scanned_ns > time_ns || old.from_ns > time_ns {
                return;
            }
            let id = old.id;
            let entry = self.replace_image(id, time_ns, now);
            image.start = entry.start;
            image.start_ticks = entry.start_ticks;
            image.counts = entry.counts;
            image.watch = entry.watch;
            image.walker.has_entry = entry.has_entry;
            image.walker.must_write = true;
        }
        let Some(id) = self.insert(image) else { return };
        self.refresh_watch(id, now);
        // What else it is to be is seen when its program is mapped, which comes next.
        self.dirty.insert(id);
    }

    fn on_exit(&mut self, time_ns: u64, pid: Pid, now: Now) {
        let Some(image) = self.running(pid) else { return };
        if image.scanned_ns > time_ns || image.from_ns > time_ns {
            return;
        }
        let id = image.id;
        let concerns_us = image.walker.has_entry || image.watch.is_wanted();
        if concerns_us && self.other_threads_run(pid) {
            if let Some(image) = self.images.get_mut(&id) {
                image.leader_ended = true;
            }
            self.leaderless.insert(id);
        } else {
            self.end_image(id, time_ns, now);
        }
    }

    /// Whether more threads than the first, which has just ended, still run.
    pub(super) fn other_threads_run(&self, pid: Pid) -> bool {
        // The ending thread counts itself until it is reaped.
        self.proc.stat(pid).is_ok_and(|stat| stat.threads > 1)
    }

    fn on_map(&mut self, time_ns: u64, pid: Pid, record: &MapRecord, now: Now) {
        let Some(image) = self.image_at(pid, time_ns) else {
            self.tallies.records_of_unknown += 1;
            return;
        };
        let id = image.id;
        if !image.tracked {
            let is_news = !image.known_marks().unwrap_or_default().python && image.is_running();
            if is_news && is_interpreter_library(&record.path) {
                self.submit(Job::Identify { image: id, pid });
            }
            return;
        }
        if time_ns < image.scanned_ns || record.path.len() > MAX_PATH_BYTES {
            return;
        }
        let is_program = image.program.is_none() && image.from_ns > 0 && image.mappings.live().len() == 0;
        let Some(object) = self.objects.find(record, now.monotonic_ns) else {
            return;
        };
        let changed = self
            .images
            .get_mut(&id)
            .is_some_and(|image| Arc::make_mut(&mut image.mappings).insert(mapping(record, object, time_ns)));
        self.bound_undecided(id);
        if changed {
            self.dirty.insert(id);
        }
        if is_program {
            self.note_program(id, record, now);
        } else if changed && self.watched.contains(&id) {
            self.request_builds(id);
        }
    }

    /// Stops following the mappings of an image that may never be watched when there are many. They are read from `/proc`
    /// if it is.
    fn bound_undecided(&mut self, id: ImageId) {
        let Some(image) = self
            .images
            .get_mut(&id)
            .filter(|image| image.undecided && !image.watch.is_wanted())
        else {
            return;
        };
        if image.mappings.live().len() > MAX_UNDECIDED_MAPPINGS && !image.walker.has_entry {
            image.tracked = false;
            image.mappings = Arc::default();
        }
    }

    /// Notes which program an image runs, and decides at once if the program is known.
    fn note_program(&mut self, id: ImageId, record: &MapRecord, now: Now) {
        if let Some(key) = record.device_inode {
            let path = without_deleted_mark(&record.path);
            let remembered = self.programs.get(&key).filter(|known| {
                *known.path == *path && now.monotonic_ns.saturating_sub(known.seen_ns) < PROGRAM_LIFETIME_NS
            });
            let marks = remembered.map(|known| known.marks).or_else(|| self.objects.marks(key));
            if let Some(image) = self.images.get_mut(&id) {
                image.program = Some(Program {
                    device_inode: key,
                    path: path.into(),
                });
                image.marks = marks;
            }
        }
        self.decide(id, now);
    }

    /// Takes in an image and names it.
    pub(super) fn insert(&mut self, mut image: Image) -> Option<ImageId> {
        if self.images.len() >= MAX_KNOWN {
            self.tallies.refused_processes += 1;
            return None;
        }
        let id = ImageId(self.next_image);
        self.next_image += 1;
        image.id = id;
        let of_process = self.by_pid.entry(image.pid).or_default();
        of_process.push(id);
        let from_ns = image.from_ns;
        self.images.insert(id, image);
        // Most often it is the newest.
        if of_process.len() > 1 {
            let images = &self.images;
            of_process.sort_by_key(|other| images.get(other).map_or(from_ns, |image| image.from_ns));
        }
        Some(id)
    }

    /// The image that a process runs now.
    pub(super) fn running(&self, pid: Pid) -> Option<&Image> {
        let last = self.by_pid.get(&pid)?.last()?;
        self.images.get(last).filter(|image| image.is_running())
    }

    /// The image that a process ran at a time.
    pub(super) fn image_at(&self, pid: Pid, time_ns: u64) -> Option<&Image> {
        let of_process = self.by_pid.get(&pid)?;
        of_process
            .iter()
            .rev()
            .filter_map(|id| self.images.get(id))
            .find(|image| image.ran_at(time_ns))
    }

    pub(super) fn image_at_mut(&mut self, pid: Pid, time_ns: u64) -> Option<&mut Image> {
        let id = self.image_at(pid, time_ns)?.id;
        self.images.get_mut(&id)
    }

    /// Gives the builder a job.
    pub(super) fn submit(&mut self, job: Job) -> bool {
        let taken = self.builder.submit(job).is_ok();
        self.tallies.refused_jobs += u64::from(!taken);
        taken
    }
}

pub(super) fn mapping(record: &MapRecord, object: Arc<MappedObject>, from_ns: u64) -> Mapping {
    // The kernel gives special mappings offsets that mean nothing.
    let file_offset = if record.path.starts_with(b"[") {
        0
    } else {
        record.file_offset
    };
    let end = record.start.saturating_add(record.length);
    Mapping::new(record.start, end, file_offset, object, from_ns)
}

/// Whether a library may hold a Python interpreter, by its name: worth a look, which decides.
fn is_interpreter_library(path: &[u8]) -> bool {
    path.rsplit(|&byte| byte == b'/')
        .next()
        .is_some_and(|base| base.starts_with(b"libpython"))
}

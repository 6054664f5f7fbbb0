//! The owner of all processes: what it holds, and how an image is found in it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use profiler_config::Targets;

use super::{
    builder::Builder,
    clock::Clock,
    discovery::Marks,
    jobs::Job,
    lifetimes::SAMPLED_LIFETIME_NS,
    objects::{MappedObject, Objects},
    process::{Image, ImageId, StartError},
    restraint::DiscoveredLimit,
    row_cache::RowCache,
    scan::ProcFs,
    tables::RowTables,
    templates::Templates,
    walker_tables::WalkerTables,
    watching::Stream,
    young::Young,
};
use crate::{command::WatchId, health::Health, kernel::records::Pid};

/// Processes known at one time, watched or not.
const MAX_KNOWN: usize = 1 << 16;
/// Programs whose marks are remembered by device and inode.
pub(super) const MAX_PROGRAMS: usize = 4096;

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
    /// Directory for what outlives the daemon.
    pub state_dir: PathBuf,
    /// Room in it for rows of objects that were seen before.
    pub max_cached_row_bytes: u64,
    /// Where it is reported what does not work.
    pub health: Arc<Health>,
    /// Called from another thread whenever [`Processes::poll`] has something to apply.
    pub wake: Option<Box<dyn Fn() + Send + Sync>>,
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
    pub(super) templates: Templates,
    pub(super) programs: HashMap<(u64, u64), KnownProgram>,
    pub(super) images: HashMap<ImageId, Image>,
    /// The images of each process in the order of time.
    pub(super) by_pid: HashMap<Pid, Vec<ImageId>>,
    /// Images that ended, with the time at which that was learnt.
    pub(super) ended: VecDeque<(u64, ImageId)>,
    /// Images that ended some time before those, and have samples.
    pub(super) ended_sampled: VecDeque<(u64, ImageId)>,
    /// How long those are remembered.
    pub(super) sampled_lifetime_ns: u64,
    /// Mappings of all of them.
    pub(super) ended_mappings: usize,
    /// The running images that are watched.
    pub(super) watched: HashSet<ImageId>,
    /// Images whose walker entry may have to be written.
    pub(super) dirty: HashSet<ImageId>,
    /// Processes that were sampled and should not be.
    pub(super) strays: HashSet<Pid>,
    pub(super) streams: HashMap<WatchId, Stream>,
    pub(super) leaderless: HashSet<ImageId>,
    pub(super) discovered_limit: DiscoveredLimit,
    /// Files that are to be tried again, with the time.
    pub(super) delayed: VecDeque<(u64, Arc<MappedObject>)>,
    /// Processes that are to be looked at again, with the time.
    pub(super) unidentified: VecDeque<(u64, ImageId)>,
    /// Images whose interpreter is to be looked at again, with the time.
    pub(super) python_waiting: Vec<(u64, ImageId)>,
    /// Images that are to be looked at if they live for a moment.
    pub(super) young: Young,
    /// Stacks that are being read for rows that are missing.
    pub(super) open_looks: usize,
    pub(super) health: Arc<Health>,
    pub(super) tallies: Tallies,
    pub(super) next_image: u64,
    pub(super) repair_due: bool,
    pub(super) last_repair_ns: u64,
    /// The builder did something that entries wait for.
    pub(super) rewrite_due: bool,
    pub(super) last_rewrite_ns: u64,
    pub(super) last_poll_ns: u64,
    pub(super) last_housekeeping_ns: u64,
}

impl<T: WalkerTables> Processes<T> {
    /// An owner that knows no process yet. Call [`Self::scan`] once the lifecycle records flow.
    pub fn new(walker: T, options: Options) -> Result<Self, StartError> {
        let proc = ProcFs::new(options.proc_root);
        let wake = options.wake.map(Arc::from);
        let rows = RowCache::new(
            &options.state_dir,
            options.max_cached_row_bytes,
            Arc::clone(&options.health),
        );
        let health = options.health;
        let builder = Builder::start(&proc, Arc::new(rows), wake).map_err(|reason| StartError::Thread { reason })?;
        let mut processes = Self {
            walker,
            proc,
            targets: options.targets,
            own_pid: options.own_pid,
            clock: options.clock,
            builder,
            objects: Objects::new(),
            tables: RowTables::default(),
            templates: Templates::default(),
            programs: HashMap::new(),
            images: HashMap::new(),
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            ended_sampled: VecDeque::new(),
            sampled_lifetime_ns: SAMPLED_LIFETIME_NS,
            ended_mappings: 0,
            watched: HashSet::new(),
            dirty: HashSet::new(),
            strays: HashSet::new(),
            streams: HashMap::new(),
            leaderless: HashSet::new(),
            discovered_limit: DiscoveredLimit::default(),
            delayed: VecDeque::new(),
            unidentified: VecDeque::new(),
            python_waiting: Vec::new(),
            young: Young::default(),
            open_looks: 0,
            health,
            tallies: Tallies::default(),
            next_image: 1,
            repair_due: false,
            last_repair_ns: 0,
            rewrite_due: false,
            last_rewrite_ns: 0,
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

    /// Takes another reading of the clocks, if they were set.
    pub fn follow_clock(&mut self, now: Clock) {
        self.clock.follow(now);
    }

    /// What was seen so far.
    pub fn tallies(&self) -> Tallies {
        self.tallies
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

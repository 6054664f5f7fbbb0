//! What each part of the daemon is doing, and what the daemon costs.
//!
//! In: the state of a part, from whoever runs it. Out: all states, for status, health checks and tests. A part that
//! fails, or that this host cannot do, is a state here and stops nothing else.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use profiler_readings::Source;
use tokio::sync::watch;

use crate::budget::Board;

/// Longest `/proc/PID/status` that is read.
const MAX_STATUS_BYTES: u64 = 64 << 10;

/// The parts of the daemon, in the order of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The settings: what is in force, or why a reload changed nothing.
    Configuration,
    /// The programs in the kernel that take stacks.
    Sampling,
    /// Page faults: which code makes the memory of processes grow.
    MemoryProfile,
    /// Hearing of processes that the kernel ends for want of memory.
    OomKills,
    /// Following processes through their lives.
    Lifecycle,
    /// Finding processes to watch.
    Discovery,
    /// Opening the files of processes and making unwind tables of them.
    UnwindTables,
    /// Unwind tables kept on disk.
    RowCache,
    /// Names of kernel functions.
    KernelSymbols,
    /// Names of functions in processes.
    Symbols,
    /// Windows in memory.
    Store,
    /// What host, processes and services say of themselves.
    Readings,
    /// One place that such readings come from; named only where it is not, or was not, well.
    ReadingsOf(Source),
    /// Limits held against readings, and the alerts that come of it.
    Alerts,
    /// Telling of alerts.
    Sinks,
    /// gRPC.
    Api,
    /// The TCP port; named only where one is configured.
    Tcp,
}

impl Part {
    /// Its name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Sampling => "sampling",
            Self::MemoryProfile => "memory_profile",
            Self::OomKills => "oom_kills",
            Self::Lifecycle => "lifecycle",
            Self::Discovery => "discovery",
            Self::UnwindTables => "unwind_tables",
            Self::RowCache => "row_cache",
            Self::KernelSymbols => "kernel_symbols",
            Self::Symbols => "symbols",
            Self::Store => "store",
            Self::Readings => "readings",
            Self::ReadingsOf(source) => readings_of(source),
            Self::Alerts => "alerts",
            Self::Sinks => "sinks",
            Self::Api => "api",
            Self::Tcp => "tcp",
        }
    }
}

fn readings_of(source: Source) -> &'static str {
    match source {
        Source::Cpu => "readings_cpu",
        Source::Memory => "readings_memory",
        Source::MemoryEvents => "readings_memory_events",
        Source::Pressure => "readings_pressure",
        Source::Load => "readings_load",
        Source::Disks => "readings_disks",
        Source::Network => "readings_network",
        Source::OpenFiles => "readings_open_files",
        Source::Filesystems => "readings_filesystems",
        Source::Processes => "readings_processes",
        Source::ProcessDetails => "readings_process_details",
        Source::ProportionalMemory => "readings_proportional_memory",
        Source::MemoryGrowth => "readings_memory_growth",
        Source::OomKills => "readings_oom_kills",
        Source::Listeners => "readings_listeners",
        Source::ControlGroups => "readings_cgroups",
        Source::Gpu => "gpu",
    }
}

/// What a part is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// What it is there for.
    Active,
    /// Nothing: it is switched off by configuration, or has nothing to do on this host.
    Disabled {
        /// By which, or why.
        reason: String,
    },
    /// Nothing: this host cannot do it.
    Unsupported {
        /// What is missing.
        reason: String,
        /// What an operator can do about it; empty if nothing is known.
        remedy: String,
    },
    /// What it is there for, later than it should.
    Late {
        /// How late.
        reason: String,
        /// What an operator can do about it; empty if nothing is known.
        remedy: String,
    },
    /// Nothing, or not enough: it should work and does not.
    Failed {
        /// What happened.
        reason: String,
        /// What an operator can do about it; empty if nothing is known.
        remedy: String,
    },
}

impl PartState {
    /// Nothing, since its thread panicked.
    pub fn thread_panicked() -> Self {
        Self::Failed {
            reason: "its thread panicked".to_owned(),
            remedy: "Restart the daemon, and report the panic that it wrote to standard error.".to_owned(),
        }
    }
}

/// Parts with their states, in the order of the pipeline.
pub type Parts = Vec<(Part, PartState)>;

/// The states of all parts that have reported.
#[derive(Debug)]
pub struct Health {
    parts: watch::Sender<Parts>,
    /// What the daemon costs, and what it gave up for that.
    pub budget: Board,
    /// When the sampling loop last made a turn.
    last_turn: Mutex<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// No part has reported yet.
    pub fn new() -> Self {
        Self {
            parts: watch::Sender::new(Vec::new()),
            budget: Board::default(),
            last_turn: Mutex::new(Instant::now()),
        }
    }

    /// The sampling loop has made a turn.
    pub fn note_turn(&self) {
        *self.last_turn.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since the sampling loop made a turn.
    pub fn since_turn(&self) -> Duration {
        self.last_turn.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Reports the state of a part, and logs it if it is new.
    pub fn report(&self, part: Part, state: PartState) {
        let log = state.clone();
        let is_new = self.parts.send_if_modified(|parts| {
            match parts.binary_search_by_key(&part, |(part, _)| *part) {
                Ok(index) if parts[index].1 == state => return false,
                Ok(index) => parts[index].1 = state,
                Err(index) => parts.insert(index, (part, state)),
            }
            true
        });
        if is_new {
            log_state(part, &log);
        }
    }

    /// The state of a part, if it has reported.
    pub fn state(&self, part: Part) -> Option<PartState> {
        self.parts
            .borrow()
            .iter()
            .find(|(other, _)| *other == part)
            .map(|(_, state)| state.clone())
    }

    /// All states.
    pub fn parts(&self) -> Parts {
        self.parts.borrow().clone()
    }

    /// All states, now and whenever one changes.
    pub fn subscribe(&self) -> watch::Receiver<Parts> {
        self.parts.subscribe()
    }
}

/// Reports a part as failed when its thread panics: nothing else would tell that it does not work any more. Held by
/// that thread as long as it works.
#[derive(Debug)]
pub struct Sentinel {
    part: Part,
    health: Arc<Health>,
}

impl Sentinel {
    /// Watches over a part on the calling thread.
    pub fn new(part: Part, health: Arc<Health>) -> Self {
        Self { part, health }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.report(self.part, PartState::thread_panicked());
        }
    }
}

fn log_state(part: Part, state: &PartState) {
    let part = part.name();
    match state {
        PartState::Active => tracing::info!(part, "active"),
        PartState::Disabled { reason } => tracing::info!(part, reason, "disabled"),
        PartState::Unsupported { reason, remedy } => tracing::warn!(part, reason, remedy, "not supported here"),
        PartState::Late { reason, remedy } => tracing::warn!(part, reason, remedy, "late"),
        PartState::Failed { reason, remedy } => tracing::error!(part, reason, remedy, "failed"),
    }
}

/// What the daemon itself costs; its programs in the kernel are counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCost {
    /// CPU time of all its threads since it started.
    pub cpu: Duration,
    /// Anonymous memory that is resident.
    pub resident_anon_bytes: u64,
    /// Shared memory that is resident: rings of the kernel are part of it.
    pub resident_shmem_bytes: u64,
}

/// Why the daemon's cost is not known.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file lacks a line.
    #[error("{}: no {field} in kB", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The line's name.
        field: &'static str,
    },
}

impl OwnCost {
    /// Reads the cost of the calling process; `proc_root` is where procfs is mounted.
    pub fn read(proc_root: &Path) -> Result<Self, CostError> {
        let path = proc_root.join("self/status");
        let read = |source| CostError::Read {
            path: path.clone(),
            source,
        };
        let mut status = String::new();
        File::open(&path)
            .map_err(read)?
            .take(MAX_STATUS_BYTES)
            .read_to_string(&mut status)
            .map_err(read)?;
        let bytes = |field| {
            bytes_of(&status, field).ok_or_else(|| CostError::Missing {
                path: path.clone(),
                field,
            })
        };
        Ok(Self {
            cpu: own_cpu_time(),
            resident_anon_bytes: bytes("RssAnon")?,
            resident_shmem_bytes: bytes("RssShmem")?,
        })
    }
}

/// Descriptors of the calling process. Files of processes are among them: they are held until their last samples are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// How many are open; 0 if that cannot be told.
    pub open: u32,
    /// How many may be.
    pub most: u32,
}

impl Descriptors {
    /// Counts them; `proc_root` is where procfs is mounted.
    pub fn read(proc_root: &Path) -> Self {
        let listed = std::fs::read_dir(proc_root.join("self/fd")).map(Iterator::count);
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            // The list itself is one of them.
            open: listed.map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX).saturating_sub(1)),
            most: most.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or(u32::MAX)),
        }
    }
}

/// CPU time of all threads of this process, finer than the clock ticks of `/proc/self/stat`.
fn own_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The value of a line such as `RssAnon: 1234 kB`.
fn bytes_of(status: &str, field: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_in_the_order_of_the_pipeline() {
        let health = Health::new();
        let mut seen = health.subscribe();
        health.report(Part::Api, PartState::Active);
        health.report(Part::Sampling, PartState::Disabled { reason: "x".to_owned() });
        health.report(Part::Store, PartState::Active);
        let parts: Vec<Part> = health.parts().into_iter().map(|(part, _)| part).collect();
        assert_eq!(parts, [Part::Sampling, Part::Store, Part::Api]);
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        health.report(Part::Store, PartState::Active);
        assert!(!seen.has_changed().unwrap(), "the same state is no change");
        health.report(Part::Sampling, PartState::Active);
        assert_eq!(health.state(Part::Sampling), Some(PartState::Active));
        assert_eq!(health.state(Part::Lifecycle), None);
        assert!(seen.has_changed().unwrap());
    }

    #[test]
    fn reads_memory_under_a_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("self")).unwrap();
        let status = root.path().join("self/status");
        assert!(matches!(OwnCost::read(root.path()), Err(CostError::Read { .. })));
        std::fs::write(
            &status,
            "Name:\tRssAnon: 7 kB\nRssAnon:\t    1234 kB\nRssShmem:\t 8 kB\n",
        )
        .unwrap();
        let cost = OwnCost::read(root.path()).unwrap();
        assert_eq!(
            (cost.resident_anon_bytes, cost.resident_shmem_bytes),
            (1234 << 10, 8 << 10)
        );
        std::fs::write(&status, "RssAnon:\t1234 kB\nRssShmem:\tmany kB\n").unwrap();
        assert!(matches!(
            OwnCost::read(root.path()),
            Err(CostError::Missing { field: "RssShmem", .. })
        ));
        std::fs::write(&status, "RssAnon:\t99999999999999999999 kB\n").unwrap();
        assert!(matches!(
            OwnCost::read(root.path()),
            Err(CostError::Missing { field: "RssAnon", .. })
        ));
    }

    #[test]
    fn work_and_memory_of_this_process_are_seen() {
        let before = OwnCost::read(Path::new("/proc")).unwrap();
        let memory = vec![1_u8; 32 << 20];
        let start = Instant::now();
        while own_cpu_time() < before.cpu + Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_secs(60), "no CPU time is counted");
        }
        let after = OwnCost::read(Path::new("/proc")).unwrap();
        assert!(after.resident_anon_bytes >= before.resident_anon_bytes + (memory.len() as u64) / 2);
    }

    #[test]
    fn descriptors_of_this_process_are_counted() {
        let before = Descriptors::read(Path::new("/proc"));
        assert!(before.open >= 3 && before.open < before.most, "{before:?}");
        let more: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = Descriptors::read(Path::new("/proc"));
        // Other tests open and close theirs meanwhile.
        assert!(
            after.open >= before.open + more.len() as u32 - 50,
            "{before:?} {after:?}"
        );
        assert_eq!(Descriptors::read(Path::new("/nowhere")).open, 0);
    }

    #[test]
    fn a_part_whose_thread_panics_has_failed() {
        let health = Arc::new(Health::new());
        for part in [Part::Sampling, Part::Symbols] {
            health.report(part, PartState::Active);
        }
        let work = |part, panics: bool| {
            let sentinel = Sentinel::new(part, Arc::clone(&health));
            let thread = std::thread::spawn(move || {
                let _sentinel = sentinel;
                assert!(!panics, "a defect");
            });
            thread.join()
        };
        work(Part::Sampling, false).unwrap();
        work(Part::Symbols, true).unwrap_err();
        assert_eq!(health.state(Part::Sampling), Some(PartState::Active));
        assert!(matches!(health.state(Part::Symbols), Some(PartState::Failed { .. })));
    }
}

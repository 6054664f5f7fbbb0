//! What comes out of the kernel: lifecycle records and samples, as typed values with validated contents.

use profiler_common::{process::Relocation, stop::StopReason};

/// Process id (thread group) in the host's PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that happened to a process. Times are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// When it happened.
    pub time_ns: u64,
    /// What happened.
    pub event: LifecycleEvent,
}

/// What happened to a process (perf's `PERF_RECORD_FORK`, `COMM`, `EXIT`, `MMAP2`, `LOST`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// A new process; new threads are not reported.
    Fork {
        /// The new process.
        pid: Pid,
        /// The process that called fork.
        parent: Pid,
    },
    /// The process runs another program from now on: all its mappings are gone.
    Exec {
        /// The process.
        pid: Pid,
        /// Its new name.
        name: Vec<u8>,
    },
    /// A thread named itself; the process carries the name of its first thread.
    Rename {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: u32,
        /// The new name.
        name: Vec<u8>,
    },
    /// The first thread of the process ended. Others may still run.
    Exit {
        /// The process.
        pid: Pid,
    },
    /// A new executable mapping; it replaces what it overlaps.
    Map {
        /// The process.
        pid: Pid,
        /// The mapping.
        mapping: MapRecord,
    },
    /// The kernel dropped records of one CPU: what is known of processes may be stale.
    Lost {
        /// Number of records.
        count: u64,
    },
}

/// An executable mapping as the kernel reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRecord {
    /// First runtime address.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Offset of `start` in the file, in bytes.
    pub file_offset: u64,
    /// Device and inode of the file where the record carries them (it carries a build id instead where the file has
    /// one and the kernel was asked for it).
    pub device_inode: Option<(u64, u64)>,
    /// Path as the process sees it, `[vdso]`, `//anon`, ….
    pub path: Vec<u8>,
}

/// The generation of entries that the kernel marked as pending by itself, at an exec. The daemon's own begin with 1.
pub const MARKED_GENERATION: u32 = 0;

/// One sample, borrowed from the ring.
#[derive(Clone, Copy, Debug)]
pub struct RawSample<'a> {
    /// When it was taken.
    pub time_ns: u64,
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: u32,
    /// Generation of the process's tables that its user stack was walked with, or [`MARKED_GENERATION`].
    pub generation: u32,
    /// Name of the thread without the terminating zero.
    pub thread_name: &'a [u8],
    /// The thread was interrupted in the kernel.
    pub in_kernel: bool,
    /// The kernel stack could not be taken whole.
    pub kernel_stack_incomplete: bool,
    /// Why the user stack ended.
    pub stop: StopReason,
    /// Kernel stack, innermost frame first.
    pub kernel_frames: &'a [u64],
    /// User stack as runtime addresses, innermost frame first. All but the first are return addresses unless
    /// they follow a signal frame.
    pub user_frames: &'a [u64],
    /// How addresses were translated, if the user stack was walked with the mappings of another process.
    pub relocation: Option<Relocation>,
}

//! What comes out of the kernel: lifecycle records and samples, as typed values with validated contents.

use profiler_common::{
    mapped::MappedKind,
    process::Relocation,
    python::{PythonEntry, PythonStop},
    stop::StopReason,
};

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
    /// A new process.
    Fork {
        /// The new process.
        pid: Pid,
        /// The process that called fork.
        parent: Pid,
    },
    /// Another thread of a process.
    Thread {
        /// The process.
        pid: Pid,
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

pub use profiler_common::process::MARKED_GENERATION;

/// Frames of a user stack, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFrames<'a> {
    /// An address a frame, or an address and a stack pointer.
    words: &'a [u64],
    words_per_frame: usize,
}

impl<'a> UserFrames<'a> {
    /// Frames of which the addresses are known.
    pub const fn addresses_only(addresses: &'a [u64]) -> Self {
        Self {
            words: addresses,
            words_per_frame: 1,
        }
    }

    /// Frames of which the stack pointers are known, too: each address is followed by one.
    pub const fn with_stack_pointers(words: &'a [u64]) -> Self {
        Self {
            words,
            words_per_frame: 2,
        }
    }

    /// Number of frames.
    pub const fn len(&self) -> usize {
        self.words.len() / self.words_per_frame
    }

    /// Whether there is no frame.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether stack pointers are known.
    pub const fn has_stack_pointers(&self) -> bool {
        self.words_per_frame == 2
    }

    /// Runtime addresses. All but the first are return addresses unless they follow a signal frame.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.words.chunks_exact(self.words_per_frame).map(|frame| frame[0])
    }

    /// Runtime address of a frame; `None` if there are not so many.
    pub fn address(&self, index: usize) -> Option<u64> {
        self.words.get(index.checked_mul(self.words_per_frame)?).copied()
    }

    /// Stack pointer of a frame when it runs again: the end of its callee's part of the stack. `None` if it is not known.
    pub fn stack_pointer(&self, index: usize) -> Option<u64> {
        if !self.has_stack_pointers() {
            return None;
        }
        self.words.get(index.checked_mul(2)?.checked_add(1)?).copied()
    }

    /// The innermost frames, `count` of them at most.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let end = count.saturating_mul(self.words_per_frame).min(self.words.len());
        Self {
            words: &self.words[..end],
            ..*self
        }
    }
}

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
    /// User stack.
    pub user: UserFrames<'a>,
    /// Python stack, innermost frame first.
    pub python: &'a [PythonEntry],
    /// Why the Python stack ended.
    pub python_stop: PythonStop,
    /// Whether the thread had the lock of its interpreter; `None` where that could not be told.
    pub has_gil: Option<bool>,
    /// How addresses were translated, if the user stack was walked with the mappings of another process.
    pub relocation: Option<Relocation>,
}

/// A call that asks the kernel for memory, borrowed from a batch.
#[derive(Clone, Copy, Debug)]
pub struct RawMapped<'a> {
    /// Bytes asked for, in whole pages.
    pub bytes: u64,
    /// How.
    pub kind: MappedKind,
    /// Who asked, and when.
    pub sample: RawSample<'a>,
}

/// A chosen page fault, borrowed from a batch.
#[derive(Clone, Copy, Debug)]
pub struct RawFault<'a> {
    /// Number of the page.
    pub page: u64,
    /// At which level it was chosen: one page of 2^level is.
    pub level: u32,
    /// Bits of [`profiler_common::memory::fault`].
    pub code: u32,
    /// Who touched it, and when.
    pub sample: RawSample<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_and_without_stack_pointers() {
        let plain = UserFrames::addresses_only(&[10, 20, 30]);
        assert_eq!((plain.len(), plain.address(2), plain.address(3)), (3, Some(30), None));
        assert_eq!((plain.stack_pointer(0), plain.has_stack_pointers()), (None, false));
        let pairs = UserFrames::with_stack_pointers(&[10, 1, 20, 2, 30, 3]);
        assert_eq!(pairs.addresses().collect::<Vec<_>>(), [10, 20, 30]);
        assert_eq!(
            (pairs.len(), pairs.address(1), pairs.stack_pointer(1)),
            (3, Some(20), Some(2))
        );
        assert_eq!((pairs.stack_pointer(3), pairs.address(usize::MAX)), (None, None));
        assert_eq!(pairs.first(2), UserFrames::with_stack_pointers(&[10, 1, 20, 2]));
        assert_eq!(pairs.first(usize::MAX), pairs);
        assert!(pairs.first(0).is_empty() && !pairs.is_empty());
    }
}

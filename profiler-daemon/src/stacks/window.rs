//! Counts of stacks per process over an interval, addresses resolved to objects but not yet to names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_common::stop::StopReason;
use profiler_profile::{Gil, ProcessLabel};

use super::{codes::PythonCode, held_file::HeldFile, python_tally::PythonTally};

/// Tells files apart for as long as they are the same content, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIdentity {
    /// Device of the file system.
    pub device: u64,
    /// Inode on it.
    pub inode: u64,
    /// Length in bytes.
    pub length: u64,
    /// Time of the last modification, nanoseconds since the epoch.
    pub modified_ns: i64,
    /// Time of the last change of the inode, nanoseconds since the epoch.
    pub changed_ns: i64,
}

/// What code at a location comes from. Shared by all windows and processes that refer to it.
#[derive(Debug)]
pub struct CodeObject {
    /// Base name to show: `libc.so.6`, `[vdso]`, `[anon]`.
    pub name: Arc<str>,
    /// What it is and how to read it.
    pub source: CodeSource,
    /// All its code is that of an interpreter.
    pub is_interpreter: bool,
}

/// What a [`CodeObject`] is and how to read it.
#[derive(Debug)]
pub enum CodeSource {
    /// A regular file. The descriptor is open for reading and stays valid when the file is deleted or its processes exit.
    File {
        /// Tells it from other files.
        identity: FileIdentity,
        /// Opened under the rules for hostile targets; read it with bounded `pread`s, never map it.
        descriptor: HeldFile,
        /// Where a process that maps it has it, as the kernel told: in the root of that process or in ours. It may be
        /// anything, and another file may lie there now.
        path: Box<[u8]>,
    },
    /// The kernel's own shared object, the same in every 64-bit process.
    Vdso,
    /// Memory without a file, of any process: addresses in it are runtime addresses.
    Anonymous,
    /// A file that could not be opened, or has no code there; the reason says why.
    Opaque {
        /// Why it cannot be read.
        reason: String,
    },
}

/// A place in code.
#[derive(Clone, Debug)]
pub enum Location {
    /// In a known object.
    Object {
        /// The object. Compared by pointer: one object is one `Arc`.
        object: Arc<CodeObject>,
        /// Address as the object's own tables have it, of the instruction itself: for a return address the call's
        /// last byte (return address − 1).
        link_address: u64,
    },
    /// A function of an interpreted language.
    Python {
        /// Number of its code object in the window.
        code: u32,
        /// Bytes from the start of the bytecode to the instruction; negative before the first.
        instruction: i32,
    },
    /// In no mapping known for the time of the sample.
    Unmapped {
        /// Address in the process.
        runtime_address: u64,
    },
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Object {
                    object: a,
                    link_address: x,
                },
                Self::Object {
                    object: b,
                    link_address: y,
                },
            ) => x == y && Arc::ptr_eq(a, b),
            (
                Self::Python {
                    code: a,
                    instruction: x,
                },
                Self::Python {
                    code: b,
                    instruction: y,
                },
            ) => x == y && a == b,
            (Self::Unmapped { runtime_address: x }, Self::Unmapped { runtime_address: y }) => x == y,
            _ => false,
        }
    }
}

impl Eq for Location {}

impl std::hash::Hash for Location {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Object { object, link_address } => {
                std::ptr::hash(Arc::as_ptr(object), state);
                link_address.hash(state);
            }
            Self::Python { code, instruction } => {
                code.hash(state);
                instruction.hash(state);
            }
            Self::Unmapped { runtime_address } => runtime_address.hash(state),
        }
    }
}

/// One distinct stack, both halves innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawStack {
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Whether it held the lock of its interpreter.
    pub gil: Gil,
    /// Kernel addresses: the first is where the kernel was, the others return addresses as the kernel gives them.
    pub kernel: Box<[u64]>,
    /// User locations.
    pub user: Box<[Location]>,
}

/// Stacks of one process in one window.
#[derive(Debug)]
pub struct WindowProcess {
    /// The process.
    pub label: ProcessLabel,
    /// When it started, in ticks since boot, if known: tells it from another with its id.
    pub start_ticks: Option<u64>,
    /// Samples by stack.
    pub stacks: HashMap<RawStack, u64>,
    /// Samples by why their user stack ended.
    pub stops: BTreeMap<StopReason, u64>,
    /// Samples whose kernel stack was cut or could not be read.
    pub incomplete_kernel_stacks: u64,
    /// What became of its Python stacks.
    pub python: PythonTally,
}

/// Counts of stacks over an interval.
#[derive(Debug)]
pub struct StackWindow {
    /// Time that one sample stands for.
    pub period: Duration,
    /// Start of the interval.
    pub start: SystemTime,
    /// End of the interval.
    pub end: SystemTime,
    /// The processes that were sampled.
    pub processes: Vec<WindowProcess>,
    /// Code objects of Python functions by number. They may still be being read.
    pub codes: Vec<Arc<PythonCode>>,
    /// Samples known to be lost in the interval, by reason.
    pub lost: BTreeMap<String, u64>,
}

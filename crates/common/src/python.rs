//! What the Python walker knows of a process, and what it finds: shared by the kernel, the daemon and tests.
//!
//! A Python stack is a chain of interpreter frames from the thread state outwards. It is walked apart from the native stack;
//! [`ANCHOR`] entries say where the two belong together: an address on the C stack that lies in the native
//! frame of the evaluation loop that ran the Python frames before it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Layouts of all watched Python processes together. Index 0 stands for none.
pub const MAX_PYTHON_LAYOUTS: u32 = 1024;
/// Most Python frames of a stack.
pub const MAX_PYTHON_FRAMES: usize = 256;
/// Most entries of a Python stack, frames and anchors together. Where each frame has an anchor (3.10), that is 220 frames.
pub const MAX_PYTHON_ENTRIES: usize = 440;
/// Most bytes of an interpreter frame that are read.
pub const MAX_FRAME_BYTES: usize = 112;
/// Most bytes of a code object that are read.
pub const MAX_CODE_BYTES: usize = 160;
/// Words of a code object that its check covers.
pub const CHECK_WORDS: usize = 6;

/// Where the interpreter of one process keeps what a walk needs. Offsets are in bytes. Stated once per process and
/// shared by its forks, whose address space is a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PythonLayout {
    /// How the thread state is found: what is added to the thread pointer, then to each pointer read on the way. The last
    /// read gives the thread state.
    pub thread_state: [i64; 3],
    /// `&PyCode_Type`: what the type pointer of each code object must be.
    pub code_type: u64,
    /// Address of the word that holds the thread state that has the GIL; 0 if there is none to look at.
    pub gil_holder: u64,
    /// Address of the 32-bit flag that says whether the GIL is held; 0 if the word above alone tells.
    pub gil_locked: u64,
    /// Reads that lead to the thread state: 1 to 3.
    pub thread_state_reads: u32,
    /// One of [`top_frame`].
    pub top_frame: u32,
    /// In the thread state: of the current frame.
    pub thread_frame: u32,
    /// In the thread state: of the current `_PyCFrame`.
    pub thread_cframe: u32,
    /// In `_PyCFrame`: of its current frame.
    pub cframe_frame: u32,
    /// In `_PyCFrame`: of the one before it.
    pub cframe_previous: u32,
    /// Bytes of an interpreter frame to read, at most [`MAX_FRAME_BYTES`].
    pub frame_bytes: u32,
    /// In a frame: of the frame that called it.
    pub frame_previous: u32,
    /// In a frame: of its code object.
    pub frame_code: u32,
    /// In a frame: of its instruction.
    pub frame_instruction: u32,
    /// One of [`instruction`].
    pub instruction: u32,
    /// In a frame: of the byte that says where its evaluation loop was entered from C.
    pub frame_boundary: u32,
    /// One of [`boundary`].
    pub boundary: u32,
    /// In a frame: of the 32-bit index of its thread's own bytecode; 0 if there is none.
    pub frame_bytecode_index: u32,
    /// Bits of the code pointer that are tags.
    pub code_tag_mask: u32,
    /// In an object: of its type.
    pub object_type: u32,
    /// Bytes of a code object to read, at most [`MAX_CODE_BYTES`].
    pub code_bytes: u32,
    /// In a code object: of its bytecode; what an instruction pointer is relative to.
    pub code_bytecode: u32,
    /// In a code object: of the array of its threads' own bytecodes; 0 if there is none.
    pub code_thread_bytecodes: u32,
    /// In a code object: of the words that [`check`] covers, multiples of 8, each below [`MAX_CODE_BYTES`] − 7.
    pub check_words: [u32; CHECK_WORDS],
    /// Always zero.
    pub reserved: u32,
}

/// Values of [`PythonLayout::top_frame`].
pub mod top_frame {
    /// The thread state holds it.
    pub const DIRECT: u32 = 0;
    /// The `_PyCFrame` that the thread state points to holds it (3.11, 3.12).
    pub const CFRAME: u32 = 1;
    /// The thread state holds it, and at [`super::PythonLayout::thread_cframe`] a chain of `_PyCFrame` that tells where the
    /// evaluation loops lie (3.10).
    pub const DIRECT_WITH_CFRAMES: u32 = 2;
}

/// Values of [`PythonLayout::instruction`].
pub mod instruction {
    /// A 32-bit count of bytes (3.8, 3.9).
    pub const BYTES: u32 = 0;
    /// A 32-bit count of code units of two bytes (3.10).
    pub const UNITS: u32 = 1;
    /// A pointer into the bytecode (3.11 and newer).
    pub const POINTER: u32 = 2;
}

/// Values of [`PythonLayout::boundary`]: which Python frames share an evaluation loop.
pub mod boundary {
    /// Each frame has its own, and nothing tells where it lies (3.8, 3.9): no anchors.
    pub const UNANCHORED: u32 = 0;
    /// Each frame has its own, which the `_PyCFrame` of the same depth lies in (3.10).
    pub const EACH: u32 = 1;
    /// A byte that is 1 marks the outermost frame of a loop, which the `_PyCFrame` lies in (3.11).
    pub const IS_ENTRY: u32 = 2;
    /// An owner of 3 and more marks a frame of the loop itself, which lies on the C stack and runs no code (3.12 and newer).
    pub const OWNER: u32 = 3;
}

/// One entry of a Python stack, innermost first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PythonEntry {
    /// Of the code object of a frame, or the anchor.
    pub address: u64,
    /// Bytes from the start of the bytecode to the instruction, or [`ANCHOR`]. −2 before the first instruction.
    pub instruction: i32,
    /// [`check`] of the code object; 0 if it could not be read.
    pub check: u32,
}

/// [`PythonEntry::instruction`] of an anchor: all frames since the one before were run by the native frame that it lies in.
pub const ANCHOR: i32 = i32::MIN;

/// Why a walk of a Python stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PythonStop {
    /// The process is not known to run Python: nothing was walked.
    NotPython = 0,
    /// The outermost frame was reached.
    Whole = 1,
    /// The thread has no thread state: it never ran Python, or has done with it.
    NoThreadState = 2,
    /// The thread state could not be read.
    ThreadStateUnreadable = 3,
    /// A frame could not be read.
    FrameUnreadable = 4,
    /// What a frame called its code object is none: the chain was being changed, or is not what it is taken for.
    NotCode = 5,
    /// As many frames as fit were recorded and the stack goes on.
    DepthLimit = 6,
}

impl PythonStop {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::NotPython,
        Self::Whole,
        Self::NoThreadState,
        Self::ThreadStateUnreadable,
        Self::FrameUnreadable,
        Self::NotCode,
        Self::DepthLimit,
    ];

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The reason in words of the command line and of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotPython => "not_python",
            Self::Whole => "whole",
            Self::NoThreadState => "no_thread_state",
            Self::ThreadStateUnreadable => "thread_state_unreadable",
            Self::FrameUnreadable => "frame_unreadable",
            Self::NotCode => "not_code",
            Self::DepthLimit => "depth_limit",
        }
    }
}

/// Tells a code object from another that lies at the same address later. Over the words at
/// [`PythonLayout::check_words`]: counts of arguments, flags, first line, and the pointers to name, file and line table.
/// Never 0.
#[inline(always)]
pub fn check(words: &[u64; CHECK_WORDS]) -> u32 {
    // Multiplication spreads upwards only, so the high half is folded in at each step.
    let mut hash: u64 = 0x9e37_79b9_7f4a_7c15;
    for word in words {
        hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    (hash as u32) | 1
}

//! How the structures of one interpreter are laid out, wherever that is known from. Offsets are in bytes.

/// Of `_PyRuntimeState` and of what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// In the runtime: the list of interpreters.
    pub(super) interpreters_head: u32,
    /// In the runtime: the `Py_tss_t` under which each thread keeps its state. `None` from 3.15.
    pub(super) thread_key: Option<u32>,
    pub(super) gil: Gil,
    pub(super) interpreter: Interpreter,
    pub(super) thread: Thread,
    pub(super) frame: Frame,
    pub(super) code: Code,
    pub(super) object: Object,
    pub(super) string: Text,
}

/// Who has the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gil {
    /// In the runtime: the thread state that has it, or null (to 3.11).
    Runtime { holder: u32 },
    /// In the interpreter: a pointer to a lock, which has the thread state that had it last, and whether it is held.
    Interpreter {
        lock: u32,
        holder: u32,
        locked: u32,
        /// Whether it begins with a flag that says if it is used at all (free-threaded builds).
        is_optional: bool,
    },
}

/// Of `PyInterpreterState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) next: u32,
    pub(super) threads_head: u32,
}

/// Of `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) next: u32,
    /// What `pthread_self` gives, which is the thread pointer on x86-64.
    pub(super) thread_id: u32,
    /// What `gettid` gives (3.11 and newer).
    pub(super) native_thread_id: Option<u32>,
    pub(super) top: TopFrame,
}

/// How the thread state leads to its current frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopFrame {
    /// It holds it.
    Direct { frame: u32 },
    /// It holds it, and a chain of `_PyCFrame` beside it.
    DirectWithCFrames { frame: u32, cframe: u32, previous: u32 },
    /// The current `_PyCFrame` holds it.
    CFrame { cframe: u32, frame: u32, previous: u32 },
}

/// Of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) previous: u32,
    pub(super) code: u32,
    pub(super) instruction: u32,
    pub(super) instruction_kind: Instruction,
    pub(super) boundary: Boundary,
    /// The index of the thread's own bytecode (free-threaded 3.14 and newer).
    pub(super) bytecode_index: Option<u32>,
    /// Bits of the code pointer that are tags.
    pub(super) code_tag_mask: u32,
}

/// How a frame states its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// Count of bytes.
    Bytes,
    /// Count of code units of two bytes.
    Units,
    /// Pointer into the bytecode.
    Pointer,
}

/// How a frame says where an evaluation loop was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// Each frame has its own, and nothing tells where.
    Unanchored,
    /// Each frame has its own, in which its `_PyCFrame` lies.
    Each,
    /// A byte marks the outermost frame of a loop.
    IsEntry(u32),
    /// The owner tells a frame of the loop itself.
    Owner(u32),
}

/// Of `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) argument_count: u32,
    pub(super) first_line: u32,
    pub(super) filename: u32,
    pub(super) name: u32,
    /// 3.11 and newer.
    pub(super) qualified_name: Option<u32>,
    pub(super) line_table: u32,
    pub(super) bytecode: Bytecode,
    /// The array of threads' own bytecodes (free-threaded 3.14 and newer).
    pub(super) thread_bytecodes: Option<u32>,
}

/// Where a code object has its bytecode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytecode {
    /// A pointer to a `bytes` object (to 3.10).
    Object(u32),
    /// In the object itself, as many code units as the object's size says.
    Inline(u32),
}

/// Of all objects, and of those with a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: u32,
    /// `ob_size` of objects of variable size.
    pub(super) size: u32,
    /// Data of a `bytes` object.
    pub(super) bytes: u32,
    /// `tp_members` of a type.
    pub(super) members: u32,
}

/// Of `str` objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) length: u32,
    pub(super) state: u32,
    /// Characters of a compact ASCII string.
    pub(super) ascii: u32,
    /// Characters of another compact string.
    pub(super) other: u32,
    /// Lowest bit of the kind in the state; the bits for compact and ASCII follow its three.
    pub(super) kind_shift: u32,
}

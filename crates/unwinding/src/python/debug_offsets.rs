//! The offsets that interpreters from 3.13 on state themselves: `_Py_DebugOffsets`, the first member of `_PyRuntime`.
//!
//! A cookie, the version, whether the build is free-threaded, then one 64-bit word for each offset. Which word is which is
//! fixed per minor version (CPython's `pycore_debug_offsets.h`, in 3.13 `pycore_runtime.h`). Nothing in it is believed:
//! each offset is bounded here, and what comes of them is held against the process before it is used.

use object::read::ReadRef;
use profiler_common::python::{MAX_CODE_BYTES, MAX_FRAME_BYTES};

use super::error::PythonError;
use super::image::Image;
use super::memory::word_at;
use super::offsets::{
    Boundary, Bytecode, Code, Frame, Gil, Instruction, Interpreter, Object, Offsets, Text, Thread, TopFrame,
};
use super::tables;
use super::version::Version;

/// What they begin with.
const COOKIE: &[u8; 8] = b"xdebugpy";
/// Bytes of the cookie, the version and whether the build is free-threaded.
const HEAD_BYTES: u64 = 24;
/// Offsets in the runtime and in an interpreter, whose structures have some 500 KiB.
const MAX_STATE_OFFSET: u64 = 4 << 20;
/// Offsets in a thread state, which has less than 1 KiB.
const MAX_THREAD_OFFSET: u64 = 64 << 10;
/// Offsets in objects.
const MAX_OBJECT_OFFSET: u64 = 1 << 10;
/// Bytes by which the header of an object is larger in free-threaded builds.
const FREE_THREADED_GROWTH: u32 = 16;

/// Numbers of the words.
#[derive(Clone, Copy, Debug)]
struct Words {
    /// Of all words.
    count: u64,
    interpreters_head: u32,
    interpreter_next: u32,
    threads_head: u32,
    ceval_gil: u32,
    thread_next: u32,
    current_frame: u32,
    thread_id: u32,
    native_thread_id: u32,
    previous: u32,
    executable: u32,
    instruction: u32,
    owner: u32,
    bytecode_index: Option<u32>,
    filename: u32,
    name: u32,
    qualified_name: u32,
    line_table: u32,
    first_line: u32,
    argument_count: u32,
    bytecode: u32,
    thread_bytecodes: Option<u32>,
    object_type: u32,
    bytes_size: u32,
    bytes_data: u32,
    string_state: u32,
    string_length: u32,
    ascii_size: u32,
}

const WORDS_3_13: Words = Words {
    count: 73,
    interpreters_head: 5,
    interpreter_next: 8,
    threads_head: 9,
    ceval_gil: 14,
    thread_next: 21,
    current_frame: 23,
    thread_id: 24,
    native_thread_id: 25,
    previous: 29,
    executable: 30,
    instruction: 31,
    owner: 33,
    bytecode_index: None,
    filename: 35,
    name: 36,
    qualified_name: 37,
    line_table: 38,
    first_line: 39,
    argument_count: 40,
    bytecode: 43,
    thread_bytecodes: None,
    object_type: 45,
    bytes_size: 65,
    bytes_data: 66,
    string_state: 68,
    string_length: 69,
    ascii_size: 70,
};

const WORDS_3_14: Words = Words {
    count: 95,
    interpreters_head: 5,
    interpreter_next: 8,
    threads_head: 9,
    ceval_gil: 15,
    thread_next: 24,
    current_frame: 26,
    thread_id: 27,
    native_thread_id: 28,
    previous: 32,
    executable: 33,
    instruction: 34,
    owner: 36,
    bytecode_index: Some(38),
    filename: 40,
    name: 41,
    qualified_name: 42,
    line_table: 43,
    first_line: 44,
    argument_count: 45,
    bytecode: 48,
    thread_bytecodes: Some(49),
    object_type: 51,
    bytes_size: 75,
    bytes_data: 76,
    string_state: 78,
    string_length: 79,
    ascii_size: 80,
};

const WORDS_3_15: Words = Words {
    count: 111,
    thread_id: 30,
    native_thread_id: 31,
    previous: 40,
    executable: 41,
    instruction: 42,
    owner: 44,
    bytecode_index: Some(46),
    filename: 48,
    name: 49,
    qualified_name: 50,
    line_table: 51,
    first_line: 52,
    argument_count: 53,
    bytecode: 56,
    thread_bytecodes: Some(57),
    object_type: 59,
    bytes_size: 87,
    bytes_data: 88,
    string_state: 90,
    string_length: 91,
    ascii_size: 92,
    ..WORDS_3_14
};

/// What an interpreter states of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DebugOffsets {
    /// The bytes in the file, to be found again in memory.
    pub(super) bytes: Vec<u8>,
    pub(super) free_threaded: bool,
    pub(super) offsets: Offsets,
}

/// The version that the start of `_PyRuntime` states. `None` if it states none, as before 3.13.
pub(super) fn version<'data, R: ReadRef<'data>>(
    image: &Image<'data, R>,
    runtime: u64,
) -> Result<Option<Version>, PythonError> {
    let Some(head) = image.bytes(runtime, HEAD_BYTES).filter(|head| head.starts_with(COOKIE)) else {
        return Ok(None);
    };
    let version = word_at(head, 8)
        .and_then(|hex| u32::try_from(hex).ok())
        .and_then(Version::from_hex)
        .ok_or(PythonError::VersionUnknown)?;
    Ok(Some(version))
}

/// Reads the offsets of a version that states them.
pub(super) fn read<'data, R: ReadRef<'data>>(
    image: &Image<'data, R>,
    runtime: u64,
    version: Version,
) -> Result<DebugOffsets, PythonError> {
    let words = match version.minor {
        13 => WORDS_3_13,
        14 => WORDS_3_14,
        15 => WORDS_3_15,
        _ => return Err(PythonError::VersionUnsupported { version }),
    };
    let bytes = image.bytes(runtime, words.count * 8).ok_or(PythonError::Unreadable {
        what: "the debug offsets",
    })?;
    let free_threaded = word_at(bytes, 16).is_some_and(|word| word != 0);
    Ok(DebugOffsets {
        bytes: bytes.to_vec(),
        free_threaded,
        offsets: Stated { bytes, words }.offsets(version.minor, free_threaded)?,
    })
}

/// The words of one interpreter.
#[derive(Clone, Copy, Debug)]
struct Stated<'data> {
    bytes: &'data [u8],
    words: Words,
}

impl Stated<'_> {
    fn offset(self, field: &'static str, index: u32, limit: u64) -> Result<u32, PythonError> {
        let value = word_at(self.bytes, index * 8).ok_or(PythonError::Unreadable {
            what: "the debug offsets",
        })?;
        u32::try_from(value)
            .ok()
            .filter(|_| value <= limit)
            .ok_or(PythonError::OffsetTooLarge { field, value, limit })
    }

    fn offsets(self, minor: u8, free_threaded: bool) -> Result<Offsets, PythonError> {
        let words = self.words;
        let state = |field, index| self.offset(field, index, MAX_STATE_OFFSET);
        let thread = |field, index| self.offset(field, index, MAX_THREAD_OFFSET);
        Ok(Offsets {
            interpreters_head: state("the list of interpreters", words.interpreters_head)?,
            thread_key: tables::thread_key(minor),
            gil: self.gil(free_threaded)?,
            interpreter: Interpreter {
                next: state("the next interpreter", words.interpreter_next)?,
                threads_head: state("the list of threads", words.threads_head)?,
            },
            thread: Thread {
                next: thread("the next thread", words.thread_next)?,
                thread_id: thread("a thread's id", words.thread_id)?,
                native_thread_id: Some(thread("a thread's native id", words.native_thread_id)?),
                top: TopFrame::Direct {
                    frame: thread("a thread's frame", words.current_frame)?,
                },
            },
            frame: self.frame(minor, free_threaded)?,
            code: self.code(free_threaded)?,
            object: self.object(free_threaded)?,
            string: self.string(minor, free_threaded)?,
        })
    }

    /// The lock's own structure is not stated: a pointer's or a word's worth of interval, the last holder, whether it is held
    /// (`struct _gil_runtime_state`); free-threaded builds begin with whether it is enabled at all.
    fn gil(self, free_threaded: bool) -> Result<Gil, PythonError> {
        let lock = self.offset("the GIL", self.words.ceval_gil, MAX_STATE_OFFSET)?;
        let shift = if free_threaded { 8 } else { 0 };
        Ok(Gil::Interpreter {
            lock,
            holder: 8 + shift,
            locked: 16 + shift,
            is_optional: free_threaded,
        })
    }

    fn frame(self, minor: u8, free_threaded: bool) -> Result<Frame, PythonError> {
        let at = |field, index| self.offset(field, index, MAX_FRAME_BYTES as u64 - 8);
        let bytecode_index = self.words.bytecode_index.filter(|_| free_threaded);
        Ok(Frame {
            previous: at("a frame's caller", self.words.previous)?,
            code: at("a frame's code", self.words.executable)?,
            instruction: at("a frame's instruction", self.words.instruction)?,
            instruction_kind: Instruction::Pointer,
            boundary: Boundary::Owner(at("a frame's owner", self.words.owner)?),
            bytecode_index: bytecode_index
                .map(|index| at("a frame's bytecode index", index))
                .transpose()?,
            // From 3.14 it is a `_PyStackRef`.
            code_tag_mask: if minor >= 14 { 3 } else { 0 },
        })
    }

    fn code(self, free_threaded: bool) -> Result<Code, PythonError> {
        let words = self.words;
        let at = |field, index| self.offset(field, index, MAX_CODE_BYTES as u64 - 8);
        let beyond = |field, index| self.offset(field, index, MAX_OBJECT_OFFSET);
        let argument_count = at("co_argcount", words.argument_count)?;
        Ok(Code {
            argument_count,
            first_line: at("co_firstlineno", words.first_line)?,
            filename: at("co_filename", words.filename)?,
            name: at("co_name", words.name)?,
            qualified_name: Some(at("co_qualname", words.qualified_name)?),
            line_table: at("co_linetable", words.line_table)?,
            bytecode: Bytecode::Inline(beyond("co_code_adaptive", words.bytecode)?),
            thread_bytecodes: words
                .thread_bytecodes
                .filter(|_| free_threaded)
                .map(|index| beyond("co_tlbc", index))
                .transpose()?,
        })
    }

    fn object(self, free_threaded: bool) -> Result<Object, PythonError> {
        let at = |field, index| self.offset(field, index, MAX_OBJECT_OFFSET);
        let grown = if free_threaded { FREE_THREADED_GROWTH } else { 0 };
        Ok(Object {
            kind: at("an object's type", self.words.object_type)?,
            size: at("a bytes object's size", self.words.bytes_size)?,
            bytes: at("a bytes object's data", self.words.bytes_data)?,
            members: tables::OBJECT.members + grown,
        })
    }

    fn string(self, minor: u8, free_threaded: bool) -> Result<Text, PythonError> {
        let at = |field, index| self.offset(field, index, MAX_OBJECT_OFFSET);
        let ascii = at("the size of a string's header", self.words.ascii_size)?;
        Ok(Text {
            length: at("a string's length", self.words.string_length)?,
            state: at("a string's state", self.words.string_state)?,
            ascii,
            // Followed by the length and the address of its UTF-8 form.
            other: ascii + 16,
            // Free-threaded builds from 3.14 give the state of interning a byte of its own.
            kind_shift: if free_threaded && minor >= 14 { 8 } else { 2 },
        })
    }
}

//! The interpreter of one process: where it keeps its stacks, and what they are made of.
//!
//! Comes in: what the file of the interpreter says, where it is mapped, and the memory of the process. Goes out: what the
//! walker is given, and what user space needs to name what the walker finds. It is to be held against the process by
//! [`Layout::validate`] before it is used.

use profiler_common::python::{self, CHECK_WORDS, MAX_CODE_BYTES, MAX_FRAME_BYTES, PythonLayout};

use super::code::{Code, CodeError, CodeReader};
use super::error::PythonError;
use super::lines::LineFormat;
use super::members;
use super::memory::{ProcessMemory, Reads};
use super::object::{InterpreterObject, Libc};
use super::offsets::{Boundary, Bytecode, Gil, Instruction, Offsets, TopFrame};
use super::strings::Strings;
use super::thread_state::{self, Way};
use super::threads::ThreadLists;
use super::version::Version;

/// The interpreter of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What the walker is given.
    pub walk: PythonLayout,
    /// Which Python it is.
    pub version: Version,
    /// Built without a global interpreter lock.
    pub free_threaded: bool,
    pub(super) way: Way,
    pub(super) lists: ThreadLists,
    pub(super) offsets: Offsets,
    pub(super) strings: Strings,
    line_format: LineFormat,
}

impl InterpreterObject {
    /// The layout of a process that has this object mapped `bias` (wrapping) above its link addresses.
    ///
    /// # Errors
    /// If the interpreter is not running yet ([`PythonError::is_transient`]), or what it has in memory is not what its file
    /// promises.
    pub fn layout(&self, bias: u64, libc: Libc, memory: &impl ProcessMemory) -> Result<Layout, PythonError> {
        let runtime = self.runtime.wrapping_add(bias);
        self.compare_header(runtime, memory)?;
        let code_type = self.code_type.wrapping_add(bias);
        members::compare(memory, code_type, &self.offsets)?;
        let way = match (self.offsets.thread_key, self.thread_local) {
            (_, Some(variable)) => thread_state::by_variable(memory, variable, bias, libc)?,
            (Some(key), None) => thread_state::by_key(memory, runtime.wrapping_add(u64::from(key)), libc)?,
            (None, None) => {
                return Err(PythonError::NoThreadState {
                    reason: "neither a key nor a variable is known",
                });
            }
        };
        let lists = ThreadLists {
            head: runtime.wrapping_add(u64::from(self.offsets.interpreters_head)),
            interpreter: self.offsets.interpreter,
            thread: self.offsets.thread,
        };
        let (gil_holder, gil_locked) = gil(&self.offsets.gil, runtime, &lists, memory)?;
        let walk = PythonLayout {
            thread_state: way.steps,
            thread_state_reads: way.reads,
            code_type,
            gil_holder,
            gil_locked,
            ..walk(&self.offsets)?
        };
        Ok(Layout {
            walk,
            version: self.version,
            free_threaded: self.free_threaded,
            way,
            lists,
            offsets: self.offsets,
            strings: self.strings(bias),
            line_format: match self.version.minor {
                ..=9 => LineFormat::Pairs,
                10 => LineFormat::Ranges,
                _ => LineFormat::Locations,
            },
        })
    }

    /// Debug offsets are constant: in memory they are what the file has.
    fn compare_header(&self, runtime: u64, memory: &impl ProcessMemory) -> Result<(), PythonError> {
        let Some(header) = &self.header else {
            return Ok(());
        };
        match memory.bytes(runtime, header.len()) {
            None => Err(PythonError::Unreadable {
                what: "the debug offsets in memory",
            }),
            Some(found) if found != *header => Err(PythonError::HeaderDiffers),
            Some(_) => Ok(()),
        }
    }
}

impl Layout {
    /// Reads a code object that the walker found at this address and took this check of (0 for none).
    ///
    /// # Errors
    /// If it is there no more, or cannot be read.
    pub fn read_code(&self, memory: &impl ProcessMemory, address: u64, check: u32) -> Result<Code, CodeError> {
        let reader = CodeReader {
            walk: &self.walk,
            offsets: &self.offsets.code,
            strings: &self.strings,
            line_format: self.line_format,
        };
        reader.read(memory, address, check)
    }
}

/// Addresses of the word and the flag that tell who has the GIL; 0 where they are not to be had.
fn gil(gil: &Gil, runtime: u64, lists: &ThreadLists, memory: &impl ProcessMemory) -> Result<(u64, u64), PythonError> {
    let (lock, holder, locked, is_optional) = match *gil {
        Gil::Runtime { holder } => return Ok((runtime.wrapping_add(u64::from(holder)), 0)),
        Gil::Interpreter {
            lock,
            holder,
            locked,
            is_optional,
        } => (lock, holder, locked, is_optional),
    };
    let interpreters = lists.interpreters(memory)?;
    let mut locks = interpreters
        .iter()
        .map(|interpreter| memory.word(interpreter.wrapping_add(u64::from(lock))));
    let Some(Some(address)) = locks.next().filter(|first| *first != Some(0)) else {
        return Err(PythonError::NotRunning);
    };
    // Interpreters that each have a lock of their own cannot be told by one.
    let is_shared = locks.all(|other| other == Some(address));
    let is_used = !is_optional || memory.half(address).is_some_and(|enabled| enabled != 0);
    Ok(match is_shared && is_used {
        true => (
            address.wrapping_add(u64::from(holder)),
            address.wrapping_add(u64::from(locked)),
        ),
        false => (0, 0),
    })
}

/// What the walker needs of the structures.
fn walk(offsets: &Offsets) -> Result<PythonLayout, PythonError> {
    let Offsets {
        thread, frame, code, ..
    } = offsets;
    let (top_frame, thread_frame, thread_cframe, cframe_frame, cframe_previous) = match thread.top {
        TopFrame::Direct { frame } => (python::top_frame::DIRECT, frame, 0, 0, 0),
        TopFrame::DirectWithCFrames {
            frame,
            cframe,
            previous,
        } => (python::top_frame::DIRECT_WITH_CFRAMES, frame, cframe, 0, previous),
        TopFrame::CFrame {
            cframe,
            frame,
            previous,
        } => (python::top_frame::CFRAME, 0, cframe, frame, previous),
    };
    let (boundary, frame_boundary) = match frame.boundary {
        Boundary::Unanchored => (python::boundary::UNANCHORED, 0),
        Boundary::Each => (python::boundary::EACH, 0),
        Boundary::IsEntry(offset) => (python::boundary::IS_ENTRY, offset),
        Boundary::Owner(offset) => (python::boundary::OWNER, offset),
    };
    let instruction = match frame.instruction_kind {
        Instruction::Bytes => python::instruction::BYTES,
        Instruction::Units => python::instruction::UNITS,
        Instruction::Pointer => python::instruction::POINTER,
    };
    let check_words = check_words(code);
    let frame_end = [
        frame.previous,
        frame.code,
        frame.instruction,
        frame_boundary,
        frame.bytecode_index.unwrap_or(0),
    ];
    let code_end = check_words.iter().copied().chain([offsets.object.kind]);
    Ok(PythonLayout {
        top_frame,
        thread_frame,
        thread_cframe,
        cframe_frame,
        cframe_previous,
        frame_bytes: end_of(frame_end, "a frame", MAX_FRAME_BYTES)?,
        frame_previous: frame.previous,
        frame_code: frame.code,
        frame_instruction: frame.instruction,
        instruction,
        frame_boundary,
        boundary,
        frame_bytecode_index: frame.bytecode_index.unwrap_or(0),
        code_tag_mask: frame.code_tag_mask,
        object_type: offsets.object.kind,
        code_bytes: end_of(code_end, "a code object", MAX_CODE_BYTES)?,
        code_bytecode: match code.bytecode {
            Bytecode::Inline(offset) => offset,
            Bytecode::Object(_) => 0,
        },
        code_thread_bytecodes: code.thread_bytecodes.unwrap_or(0),
        check_words,
        ..PythonLayout::default()
    })
}

/// Words that stay the same for the life of a code object. Counts are of four bytes: the word around each is taken, whose
/// other half does not change either.
fn check_words(code: &super::offsets::Code) -> [u32; CHECK_WORDS] {
    let around = |offset: u32| offset & !7;
    [
        around(code.argument_count),
        around(code.first_line),
        code.filename,
        code.name,
        // Before there were qualified names: the counts that follow the one of arguments.
        code.qualified_name.unwrap_or(around(code.argument_count) + 8),
        code.line_table,
    ]
}

/// The end of the last of these words, within what may be read.
fn end_of(words: impl IntoIterator<Item = u32>, what: &'static str, limit: usize) -> Result<u32, PythonError> {
    let last = words.into_iter().fold(0, u32::max);
    let end = (last & !7) + 8;
    match end as usize <= limit {
        true => Ok(end),
        false => Err(PythonError::OffsetTooLarge {
            field: what,
            value: u64::from(end),
            limit: limit as u64,
        }),
    }
}

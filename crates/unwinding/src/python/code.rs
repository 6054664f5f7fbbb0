//! Code objects: the names and lines of functions.
//!
//! Comes in: the address of a code object and the check that the walker took of it. Goes out: what it is called, and the line
//! of each of its instructions. The address may hold something else by now; that is told by the check, before and after
//! reading, and never named.

use profiler_common::python::{CHECK_WORDS, MAX_CODE_BYTES, PythonLayout, check};
use thiserror::Error;

use super::lines::{LineFormat, Lines};
use super::memory::{ProcessMemory, Reads, half_at, word_at};
use super::offsets::{self, Bytecode};
use super::strings::Strings;

/// Most characters of the name of a function.
const MAX_NAME_CHARACTERS: usize = 1024;
/// Most characters of the name of a file: `PATH_MAX`.
const MAX_FILENAME_CHARACTERS: usize = 4096;
/// Most bytes of a line table. A function of 100,000 lines has less.
const MAX_LINE_TABLE_BYTES: u64 = 1 << 20;

/// Why a code object has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum CodeError {
    /// Something else is there by now.
    #[error("another object is at the address by now")]
    Gone,
    /// The memory cannot be read, or no more.
    #[error("its memory cannot be read")]
    Unreadable,
    /// It does not have what every code object has.
    #[error("its {part} is none")]
    Malformed {
        /// Which part.
        part: &'static str,
    },
}

/// What a code object says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The function with the classes and functions around it, `Outer.method.<locals>.inner`. Before 3.11, where code objects
    /// do not have it, the same as the name.
    pub qualified_name: Box<str>,
    /// The function alone.
    pub name: Box<str>,
    /// The file as the compiler was told it.
    pub filename: Box<str>,
    /// The line of its `def`, or of its first decorator.
    pub first_line: u32,
    /// Bytes of bytecode.
    pub(super) length: u32,
    lines: Lines,
}

impl Code {
    /// The line of an instruction, by its distance in bytes from the start of the bytecode. Before the first instruction,
    /// the function's own. `None` where the compiler gave it no line.
    pub fn line(&self, instruction: i32) -> Option<u32> {
        match u32::try_from(instruction) {
            Ok(offset) => self.lines.at(offset),
            Err(_) => Some(self.first_line).filter(|line| *line != 0),
        }
    }

    /// Whether each instruction is spoken for by the line table.
    pub(super) fn has_whole_lines(&self) -> bool {
        self.lines.end() == self.length
    }

    /// Bytes of memory that this takes.
    pub fn memory_bytes(&self) -> usize {
        let text = self.qualified_name.len() + self.name.len() + self.filename.len();
        size_of::<Self>() + text + self.lines.memory_bytes()
    }
}

/// What is needed to read the code objects of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeReader<'layout> {
    pub(super) walk: &'layout PythonLayout,
    pub(super) offsets: &'layout offsets::Code,
    pub(super) strings: &'layout Strings,
    pub(super) line_format: LineFormat,
}

impl CodeReader<'_> {
    pub(super) fn read(
        &self,
        memory: &(impl ProcessMemory + ?Sized),
        address: u64,
        expect: u32,
    ) -> Result<Code, CodeError> {
        let head = self.head(memory, address)?;
        let found = self.check_of(&head);
        // Where the walker could not read the object, it has no check.
        if expect != 0 && expect != found {
            return Err(CodeError::Gone);
        }
        let code = self.parts(memory, address, &head);
        // What was read meanwhile belongs together only if it is still the same object.
        if self.check_of(&self.head(memory, address)?) != found {
            return Err(CodeError::Gone);
        }
        code
    }

    /// The start of a code object.
    fn head(&self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Result<[u8; MAX_CODE_BYTES], CodeError> {
        let mut head = [0; MAX_CODE_BYTES];
        let wanted = head
            .get_mut(..self.walk.code_bytes as usize)
            .ok_or(CodeError::Malformed { part: "layout" })?;
        if !memory.read(address, wanted) {
            return Err(CodeError::Unreadable);
        }
        if word_at(&head, self.walk.object_type) != Some(self.walk.code_type) {
            return Err(CodeError::Gone);
        }
        Ok(head)
    }

    fn check_of(&self, head: &[u8]) -> u32 {
        let mut words = [0; CHECK_WORDS];
        for (word, offset) in words.iter_mut().zip(self.walk.check_words) {
            *word = word_at(head, offset).unwrap_or(0);
        }
        check(&words)
    }

    fn parts(&self, memory: &(impl ProcessMemory + ?Sized), address: u64, head: &[u8]) -> Result<Code, CodeError> {
        let pointer = |part, offset| word_at(head, offset).ok_or(CodeError::Malformed { part });
        let text = |part, offset, limit| {
            self.strings
                .text(memory, pointer(part, offset)?, limit)
                .map(String::into_boxed_str)
                .ok_or(CodeError::Malformed { part })
        };
        let name = text("name", self.offsets.name, MAX_NAME_CHARACTERS)?;
        let qualified_name = match self.offsets.qualified_name {
            Some(offset) => text("qualified name", offset, MAX_NAME_CHARACTERS)?,
            None => name.clone(),
        };
        let filename = text("file name", self.offsets.filename, MAX_FILENAME_CHARACTERS)?;
        let first_line = half_at(head, self.offsets.first_line)
            .filter(|line| i32::try_from(*line).is_ok())
            .ok_or(CodeError::Malformed { part: "first line" })?;
        let length = self
            .length(memory, address)
            .ok_or(CodeError::Malformed { part: "bytecode" })?;
        // A table that is too long, or none, leaves the function's name.
        let table = self.strings.bytes(
            memory,
            pointer("line table", self.offsets.line_table)?,
            MAX_LINE_TABLE_BYTES,
        );
        let lines = table.map_or_else(Lines::default, |table| {
            Lines::decode(self.line_format, &table, first_line, length)
        });
        Ok(Code {
            qualified_name,
            name,
            filename,
            first_line,
            length,
            lines,
        })
    }

    /// Bytes of bytecode.
    fn length(&self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Option<u32> {
        let length = match self.offsets.bytecode {
            Bytecode::Object(offset) => {
                let object = memory.word(address.wrapping_add(u64::from(offset)))?;
                self.strings.bytes_length(memory, object)?
            }
            Bytecode::Inline(_) => {
                let units = memory.word(address.wrapping_add(u64::from(self.strings.object.size)))?;
                units.checked_mul(2)?
            }
        };
        // Instructions are counted with a sign.
        u32::try_from(length)
            .ok()
            .filter(|length| i32::try_from(*length).is_ok())
    }
}

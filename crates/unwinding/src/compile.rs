//! The compiler: call frame information in, a [`RowTable`] out.
//!
//! The functions are listed and sorted by address first; then each is evaluated in that order and its rules are laid
//! out at once, so that nothing but the list of functions and the rows themselves is held.

use gimli::{
    FrameDescriptionEntry, ReaderOffset, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindTableRow,
};
use object::read::ReadRef;
use profiler_common::row::{CfaRule, Row};
use thiserror::Error;

use crate::call_frames::CallFrames;
use crate::elf::ElfError;
use crate::function::{Bytes, Entries, Entry, Function, OutOfWork, Parser};
use crate::linkage::LinkageTable;
use crate::rule::{self, UnsupportedRule};
use crate::segments::Segments;
use crate::table::{RowTable, Statistics, TableBuilder};

/// Registers with a rule at one time. A function preserves six registers and a hand-written one perhaps all 32.
const MAX_REGISTER_RULES: usize = 32;
/// States remembered at one time; compilers need two.
const MAX_REMEMBERED_STATES: usize = 16;

/// What compiling one object may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of `.eh_frame`.
    pub max_eh_frame_bytes: u64,
    /// Most functions.
    pub max_functions: u32,
    /// Most rows: 8 bytes each.
    pub max_rows: u32,
    /// Most pages of 64 KiB from the first code to the last: 8 bytes each.
    pub max_pages: u32,
    /// Most bytes of call frame instructions run, counting those that functions share once for each.
    pub max_work_bytes: u64,
}

impl Default for Limits {
    /// Room for three times the largest objects in use (libraries of machine learning: 350 thousand functions, 25 MB
    /// of `.eh_frame`, 5 million rows).
    fn default() -> Self {
        Self {
            max_eh_frame_bytes: 96 << 20,
            max_functions: 1 << 20,
            max_rows: 1 << 24,
            max_pages: 1 << 15,
            max_work_bytes: 256 << 20,
        }
    }
}

/// Why an object has no rows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// The file is no usable object.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The object says nothing about its stack frames: an outcome, not a fault.
    #[error("the object has no unwind table")]
    NoUnwindTable,
    /// `.eh_frame` is larger than allowed.
    #[error("{bytes} bytes of .eh_frame, at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// What was allowed.
        limit: u64,
    },
    /// More functions than allowed.
    #[error("more than {limit} functions")]
    TooManyFunctions {
        /// What was allowed.
        limit: u32,
    },
    /// More rows than allowed.
    #[error("more than {limit} rows")]
    TooManyRows {
        /// What was allowed.
        limit: u32,
    },
    /// The code is spread over more pages than allowed.
    #[error("code spread over more than {limit} pages")]
    TooManyPages {
        /// What was allowed.
        limit: u32,
    },
    /// More call frame instructions than allowed.
    #[error("more than {limit} bytes of call frame instructions to run")]
    TooMuchWork {
        /// What was allowed.
        limit: u64,
    },
}

/// Compiles the unwind table of an x86-64 object.
pub fn compile<'data, R: ReadRef<'data>>(data: R, limits: &Limits) -> Result<RowTable, CompileError> {
    CallFrames::read(data, limits)?.compile(limits)
}

impl CallFrames<'_> {
    /// Compiles what was read.
    pub fn compile(&self, limits: &Limits) -> Result<RowTable, CompileError> {
        Compiler::new(self, limits).run(self)
    }
}

/// Room for the state of one function's evaluation, bounded: each remembered state is a copy of all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage;

impl<T: ReaderOffset> UnwindContextStorage<T> for Storage {
    type Rules = [(Register, RegisterRule<T>); MAX_REGISTER_RULES];
    type Stack = Box<[UnwindTableRow<T, Self>; MAX_REMEMBERED_STATES]>;
}

struct Compiler<'data> {
    limits: Limits,
    parser: Parser<'data>,
    context: UnwindContext<usize, Storage>,
    table: TableBuilder,
    statistics: Statistics,
}

impl<'data> Compiler<'data> {
    fn new(call_frames: &CallFrames<'data>, limits: &Limits) -> Self {
        Self {
            limits: *limits,
            parser: Parser::new(call_frames.bytes(), call_frames.link_address(), limits.max_work_bytes),
            context: UnwindContext::new_in(),
            table: TableBuilder::new(*limits),
            statistics: Statistics::default(),
        }
    }

    fn run(mut self, call_frames: &CallFrames<'data>) -> Result<RowTable, CompileError> {
        let mut functions = self.list(call_frames)?;
        functions.sort_unstable_by_key(|function| (function.start, function.entry));
        // Only where no function describes a part of it.
        let linkage = call_frames.linkage().filter(|linkage| {
            let range = &linkage.range;
            !functions
                .iter()
                .any(|function| function.start < range.end && range.start < function.end)
        });
        let before = linkage.map_or(functions.len(), |linkage| {
            functions.partition_point(|function| function.start < linkage.range.start)
        });
        let (before, after) = functions.split_at(before);
        self.lay_out_all(before)?;
        for (range, rule) in linkage.into_iter().flat_map(LinkageTable::rules) {
            self.table.cover(range, rule)?;
        }
        self.lay_out_all(after)?;
        self.table.finish(self.statistics)
    }

    fn lay_out_all(&mut self, functions: &[Function]) -> Result<(), CompileError> {
        for function in functions {
            // Where functions overlap, the one that begins first holds.
            let start = function.start.max(self.table.end());
            if start >= function.end {
                self.statistics.functions_without_code += 1;
                continue;
            }
            match self.entry(function.entry)? {
                Ok(entry) => self.lay_out(&entry, start, function.end)?,
                Err(_) => self.statistics.functions_malformed += 1,
            }
        }
        Ok(())
    }

    fn list(&mut self, call_frames: &CallFrames<'data>) -> Result<Vec<Function>, CompileError> {
        let mut functions = Vec::new();
        let mut entries = Entries::new(call_frames.bytes());
        for entry in entries.by_ref() {
            let offset = match entry {
                Entry::Function(offset) => offset,
                Entry::Common | Entry::Terminator => continue,
                Entry::Malformed => {
                    self.statistics.functions_malformed += 1;
                    continue;
                }
            };
            match self.entry(offset)? {
                Ok(entry) => match loaded_part(&entry, call_frames.segments()) {
                    Some((start, end)) if functions.len() < self.limits.max_functions as usize => {
                        functions.push(Function {
                            start,
                            end,
                            entry: offset,
                        });
                    }
                    Some(_) => {
                        return Err(CompileError::TooManyFunctions {
                            limit: self.limits.max_functions,
                        });
                    }
                    None => self.statistics.functions_without_code += 1,
                },
                Err(_) => self.statistics.functions_malformed += 1,
            }
        }
        // An entry that reaches beyond the end, and whatever may have come after it.
        if call_frames.bytes().len() - entries.position() >= size_of::<u32>() {
            self.statistics.functions_malformed += 1;
        }
        Ok(functions)
    }

    /// Lays out the rules of one function for the code from `start` to `end`.
    fn lay_out(
        &mut self,
        entry: &FrameDescriptionEntry<Bytes<'data>>,
        start: u64,
        end: u64,
    ) -> Result<(), CompileError> {
        let Self {
            limits,
            parser,
            context,
            table,
            statistics,
        } = self;
        parser.spend_on_rows(entry).map_err(|OutOfWork| too_much_work(limits))?;
        statistics.functions += 1;
        let mut covered = start;
        if let Ok(mut rows) = entry.rows(parser.eh_frame(), parser.bases(), context) {
            // An error leaves the rest of the function to the row for damaged instructions below.
            while let Ok(Some(row)) = rows.next_row() {
                let range = covered..end.min(row.end_address());
                if range.is_empty() {
                    continue;
                }
                covered = range.end;
                let rule = rule::translate(parser, entry, row);
                statistics.count_rule(&range, rule);
                table.cover(range, rule.unwrap_or(UNSUPPORTED))?;
            }
        }
        if covered < end {
            let range = covered..end;
            statistics.count_rule(&range, Err(UnsupportedRule::Malformed));
            table.cover(range, UNSUPPORTED)?;
        }
        Ok(())
    }

    fn entry(&mut self, offset: usize) -> Result<gimli::Result<FrameDescriptionEntry<Bytes<'data>>>, CompileError> {
        self.parser
            .entry(offset)
            .map_err(|OutOfWork| too_much_work(&self.limits))
    }
}

const UNSUPPORTED: Row = Row::marker(0, CfaRule::Unsupported);

fn too_much_work(limits: &Limits) -> CompileError {
    CompileError::TooMuchWork {
        limit: limits.max_work_bytes,
    }
}

/// The part of a function that the object loads as code. Linkers leave entries behind for code they removed.
fn loaded_part(entry: &FrameDescriptionEntry<Bytes<'_>>, segments: &Segments) -> Option<(u64, u64)> {
    let start = entry.initial_address();
    let end = start.checked_add(entry.len())?;
    let segment = segments.containing(start)?;
    let end = end.min(segment.link_range().end);
    (start < end).then_some((start, end))
}

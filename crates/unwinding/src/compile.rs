//! The compiler: call frame information in, a [`RowTable`] out.
//!
//! The functions are listed and sorted by address first; then each is evaluated in that order and its rules are laid
//! out at once, so that nothing but the list of functions and the rows themselves is held.

use std::ops::Range;

use gimli::{
    FrameDescriptionEntry, ReaderOffset, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindTableRow,
};
use object::read::ReadRef;
use profiler_common::row::{CfaRule, Row};
use thiserror::Error;

use crate::call_frames::CallFrames;
use crate::deduced;
use crate::elf::ElfError;
use crate::function::{Bytes, Function, OutOfWork, Parser};
use crate::linkage::LinkageTable;
use crate::rule::{self, UnsupportedRule};
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
    /// Most bytes of code that nothing describes; the rest of it has no rows.
    pub max_undescribed_bytes: u64,
    /// Most bytes of call frame instructions run, counting those that functions share once for each.
    pub max_work_bytes: u64,
}

impl Default for Limits {
    /// Room for three times the largest objects in use (libraries of machine learning: 350 thousand functions, 25 MB
    /// of `.eh_frame`, 5 million rows), and for what of them is written in assembly (30 MB).
    fn default() -> Self {
        Self {
            max_eh_frame_bytes: 96 << 20,
            max_functions: 1 << 20,
            max_rows: 1 << 24,
            max_pages: 1 << 15,
            max_undescribed_bytes: 48 << 20,
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
        let listing = call_frames.listing();
        Self {
            limits: *limits,
            parser: Parser::new(call_frames.bytes(), call_frames.link_address(), listing.work_left),
            context: UnwindContext::new_in(),
            table: TableBuilder::new(*limits),
            statistics: Statistics {
                functions_without_code: listing.without_code,
                functions_malformed: listing.malformed,
                ..Statistics::default()
            },
        }
    }

    fn run(mut self, call_frames: &CallFrames<'data>) -> Result<RowTable, CompileError> {
        let mut others = other_rules(call_frames, &mut self.statistics).into_iter().peekable();
        for function in &call_frames.listing().functions {
            while let Some((range, rule)) = others.next_if(|(range, _)| range.start < function.start) {
                self.table.cover(range, rule)?;
            }
            self.lay_out_function(function)?;
        }
        for (range, rule) in others {
            self.table.cover(range, rule)?;
        }
        self.table.finish(self.statistics)
    }

    fn lay_out_function(&mut self, function: &Function) -> Result<(), CompileError> {
        // Where functions overlap, the one that begins first holds.
        let start = function.start.max(self.table.end());
        if start >= function.end {
            self.statistics.functions_without_code += 1;
            return Ok(());
        }
        match self.entry(function.entry)? {
            Ok(entry) => self.lay_out(&entry, start, function.end)?,
            Err(_) => self.statistics.functions_malformed += 1,
        }
        Ok(())
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

/// Rules of what no function describes, in the order of addresses.
fn other_rules(call_frames: &CallFrames<'_>, statistics: &mut Statistics) -> Vec<(Range<u64>, Row)> {
    let mut rules: Vec<_> = call_frames
        .linkage()
        .into_iter()
        .flat_map(LinkageTable::rules)
        .collect();
    for undescribed in call_frames.undescribed() {
        let deduced = deduced::deduce(undescribed.bytes, undescribed.start);
        statistics.functions_deduced += deduced.functions;
        rules.extend(deduced.rules());
    }
    rules.sort_by_key(|(range, _)| range.start);
    rules
}

const UNSUPPORTED: Row = Row::marker(0, CfaRule::Unsupported);

pub(crate) fn too_much_work(limits: &Limits) -> CompileError {
    CompileError::TooMuchWork {
        limit: limits.max_work_bytes,
    }
}

//! Files and lines of addresses, by running a unit's line program past them.

use std::{collections::HashMap, sync::Arc};

use gimli::{AttributeValue, DebugLineOffset, Error, IncompleteLineProgram, Reader, Result, Section as _};

use super::{Dwarf, units::OpenUnit};
use crate::{effort::Effort, paged::PagedReader};

/// Longest header of a line program that is read: a file listed in one byte becomes a hundred in memory.
const LONGEST_HEADER: u64 = 256 << 10;
/// Longest part of a path that is read.
const LONGEST_PATH: usize = 4 << 10;

/// A line of a source file.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// Path; empty if unknown.
    pub(super) file: Arc<str>,
    /// 0 if unknown.
    pub(super) line: u32,
}

/// The line program of a unit.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// `None` if the unit has none that can be read.
    program: Option<IncompleteLineProgram<PagedReader<'a>>>,
    error: Option<Error>,
    files: HashMap<u64, Arc<str>>,
}

impl<'a> Program<'a> {
    pub(super) fn open(dwarf: &Dwarf<'a>, unit: &OpenUnit<'a>) -> Self {
        let (program, error) = match unit.line_program.map(|offset| open(dwarf, unit, offset)) {
            Some(Ok(program)) => (Some(program), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        Self {
            program,
            error,
            files: HashMap::new(),
        }
    }

    /// The path of a file by its number in the program; empty if there is none.
    pub(super) fn file(&mut self, dwarf: &Dwarf<'a>, unit: &OpenUnit<'a>, number: u64) -> Arc<str> {
        let Some(program) = &self.program else {
            return Arc::default();
        };
        let path = self
            .files
            .entry(number)
            .or_insert_with(|| path(dwarf, unit, program, number).into());
        Arc::clone(path)
    }

    /// Finds the line of each of `targets`, which are sorted.
    pub(super) fn run(
        mut self,
        dwarf: &Dwarf<'a>,
        unit: &OpenUnit<'a>,
        effort: &Effort,
        targets: &[u64],
        lines: &mut [Option<Line>],
    ) -> Result<()> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let Some(program) = self.program.clone() else {
            return Ok(());
        };
        let mut rows = program.rows();
        let mut previous: Option<Row> = None;
        // The first target that the row before was not past.
        let mut next = 0;
        while let Some((_, row)) = rows.next_row()? {
            let address = row.address();
            if let Some(previous) = previous {
                // Rows ascend within a sequence; the next sequence can begin anywhere.
                let is_behind = targets[..next].last().is_some_and(|target| *target >= previous.address);
                let is_ahead = targets.get(next).is_some_and(|target| *target < previous.address);
                if is_behind || is_ahead {
                    next = targets.partition_point(|target| *target < previous.address);
                }
                while targets.get(next).is_some_and(|target| *target < address) {
                    if !effort.spend(1) {
                        return Err(Error::Io);
                    }
                    // An address described twice keeps the better of two lines, or the first.
                    if lines[next].as_ref().is_none_or(|line| line.line == 0) {
                        let file = self.file(dwarf, unit, previous.file);
                        lines[next] = Some(Line {
                            file,
                            line: previous.line,
                        });
                    }
                    next += 1;
                }
            }
            previous = (!row.end_sequence()).then(|| Row {
                address,
                file: row.file_index(),
                line: row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0),
            });
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Row {
    address: u64,
    file: u64,
    line: u32,
}

fn open<'a>(
    dwarf: &Dwarf<'a>,
    unit: &OpenUnit<'a>,
    offset: DebugLineOffset<usize>,
) -> Result<IncompleteLineProgram<PagedReader<'a>>> {
    // The length of the header, from the fields before it (DWARF 5, 6.2.4).
    let mut header = dwarf.debug_line.reader().clone();
    header.skip(offset.0)?;
    let (_, format) = header.read_initial_length()?;
    if header.read_u16()? >= 5 {
        header.skip(2)?;
    }
    if header.read_length(format)? as u64 > LONGEST_HEADER {
        return Err(Error::UnsupportedOffset);
    }
    let (directory, name) = (unit.unit.comp_dir.clone(), unit.unit.name.clone());
    dwarf
        .debug_line
        .program(offset, unit.unit.header.address_size(), directory, name)
}

/// Directory of the compilation, directory of the file and name of the file, as far as the later ones are relative.
fn path<'a>(
    dwarf: &Dwarf<'a>,
    unit: &OpenUnit<'a>,
    program: &IncompleteLineProgram<PagedReader<'a>>,
    number: u64,
) -> String {
    let header = program.header();
    let Some(file) = header.file(number) else {
        return String::new();
    };
    let Some(name) = text(dwarf, unit, file.path_name()) else {
        return String::new();
    };
    let mut path = unit.unit.comp_dir.as_ref().and_then(bounded_text).unwrap_or_default();
    if let Some(directory) = file
        .directory(header)
        .and_then(|directory| text(dwarf, unit, directory))
    {
        join(&mut path, &directory);
    }
    join(&mut path, &name);
    path
}

fn join(path: &mut String, part: &str) {
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(part);
}

fn text<'a>(dwarf: &Dwarf<'a>, unit: &OpenUnit<'a>, value: AttributeValue<PagedReader<'a>>) -> Option<String> {
    bounded_text(&dwarf.attr_string(&unit.unit, value).ok()?)
}

fn bounded_text(text: &PagedReader<'_>) -> Option<String> {
    let bytes = text.to_slice().ok().filter(|_| text.len() <= LONGEST_PATH)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

//! Line tables of code objects: which line each instruction belongs to.
//!
//! Comes in: the bytes of a table, in the form of its version. Goes out: the lines, sorted by where their instructions
//! begin. Tables may be damaged, and those of generated code may be empty: what they do not cover has no line.

/// The form of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFormat {
    /// `co_lnotab`, to 3.9: pairs of a count of bytes and a signed count of lines to go forward (CPython 3.9's
    /// `Objects/lnotab_notes.txt`).
    Pairs,
    /// `co_linetable` of 3.10: pairs of the length of a range and a signed count of lines; −128 stands for no line.
    Ranges,
    /// `co_linetable` from 3.11: entries of one to many bytes (CPython's `InternalDocs/code_objects.md`).
    Locations,
}

/// No line, where lines are kept as numbers. Files begin with line 1; the entry of a module is given to line 0.
const NO_LINE: u32 = 0;
/// Stands for no line in a table of ranges.
const RANGE_WITHOUT_LINE: i8 = -128;

/// The lines of one code object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Offset of the first instruction of a run, and its line.
    runs: Vec<(u32, u32)>,
    /// End of the last run.
    end: u32,
}

impl Lines {
    pub(super) fn decode(format: LineFormat, table: &[u8], first_line: u32, code_length: u32) -> Self {
        let mut decoder = Decoder {
            lines: Self::default(),
            line: i64::from(first_line),
        };
        match format {
            LineFormat::Pairs => decoder.pairs(table, code_length),
            LineFormat::Ranges => decoder.ranges(table),
            LineFormat::Locations => decoder.locations(table),
        }
        decoder.lines.runs.shrink_to_fit();
        decoder.lines
    }

    /// The line of the instruction at an offset.
    pub(super) fn at(&self, offset: u32) -> Option<u32> {
        if offset >= self.end {
            return None;
        }
        let after = self.runs.partition_point(|(start, _)| *start <= offset);
        let (_, line) = self.runs.get(after.checked_sub(1)?)?;
        (*line != NO_LINE).then_some(*line)
    }

    /// Bytes of bytecode that the table covers.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// Bytes of memory that these lines take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<(u32, u32)>()
    }
}

struct Decoder {
    lines: Lines,
    line: i64,
}

impl Decoder {
    /// From here on, the instructions have this line.
    fn begin(&mut self, start: u32, line: Option<i64>) {
        let line = line.and_then(|line| u32::try_from(line).ok()).unwrap_or(NO_LINE);
        match self.lines.runs.last_mut() {
            Some((last, number)) if *last == start => *number = line,
            Some((_, number)) if *number == line => {}
            _ => self.lines.runs.push((start, line)),
        }
    }

    fn pairs(&mut self, table: &[u8], code_length: u32) {
        let mut start = 0_u32;
        self.begin(start, Some(self.line));
        for [bytes, lines] in table.as_chunks().0 {
            start = start.saturating_add(u32::from(*bytes));
            self.line += i64::from(lines.cast_signed());
            self.begin(start, Some(self.line));
        }
        // The last line goes on to the end.
        self.lines.end = code_length.max(start);
    }

    fn ranges(&mut self, table: &[u8]) {
        for [bytes, lines] in table.as_chunks().0 {
            let lines = lines.cast_signed();
            let has_line = lines != RANGE_WITHOUT_LINE;
            if has_line {
                self.line += i64::from(lines);
            }
            if *bytes > 0 {
                self.begin(self.lines.end, has_line.then_some(self.line));
            }
            self.lines.end = self.lines.end.saturating_add(u32::from(*bytes));
        }
    }

    fn locations(&mut self, table: &[u8]) {
        let mut bytes = Cursor(table);
        while let Some(first) = bytes.next() {
            // Where an entry should begin, its highest bit is set.
            let Some(has_line) = self.location(&mut bytes, first).filter(|_| first & 0x80 != 0) else {
                return;
            };
            let units = u32::from(first & 7) + 1;
            self.begin(self.lines.end, has_line.then_some(self.line));
            self.lines.end = self.lines.end.saturating_add(2 * units);
        }
    }

    /// Takes in the rest of an entry. Whether it has a line; `None` if it is cut off.
    fn location(&mut self, bytes: &mut Cursor<'_>, first: u8) -> Option<bool> {
        match (first >> 3) & 15 {
            15 => return Some(false),
            14 => {
                self.line = self.line.wrapping_add(bytes.signed()?);
                // Last line, first and last column.
                for _ in 0..3 {
                    bytes.unsigned()?;
                }
            }
            13 => self.line = self.line.wrapping_add(bytes.signed()?),
            form @ 10..=12 => {
                self.line = self.line.wrapping_add(i64::from(form - 10));
                bytes.next()?;
                bytes.next()?;
            }
            _ => {
                bytes.next()?;
            }
        }
        Some(true)
    }
}

/// Numbers of six bits a byte, least first; bit 6 says that there are more.
struct Cursor<'data>(&'data [u8]);

impl Cursor<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Numbers beyond 32 bits are none.
    fn unsigned(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in (0..32).step_by(6) {
            let byte = self.next()?;
            value |= u32::from(byte & 63).checked_shl(shift)?;
            if byte & 64 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The lowest bit is the sign.
    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        let size = i64::from(value >> 1);
        Some(if value & 1 == 1 { -size } else { size })
    }
}

#[cfg(test)]
mod tests;

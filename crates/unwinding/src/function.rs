//! The entries of `.eh_frame`: which functions are described, and where.
//!
//! Comes in: the bytes of `.eh_frame`. Goes out: the functions it describes (frame description entries, FDEs), each
//! to be parsed again when its rows are wanted. One damaged entry never hides the ones behind it.

use std::ops::Range;

use gimli::{
    BaseAddresses, CommonInformationEntry, EhFrame, EhFrameOffset, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindSection,
};

use crate::compile::{CompileError, Limits, too_much_work};
use crate::segments::Segments;

/// The bytes of `.eh_frame` as gimli reads them.
pub(crate) type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// A 32-bit length with this value is followed by a 64-bit one.
const EXTENDED_LENGTH: u32 = u32::MAX;

/// One entry of `.eh_frame`, told by its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A length of zero: the end, or, where a linker joined objects that each had one, a word to skip.
    Terminator,
    /// What several functions have in common (CIE).
    Common,
    /// The entry of a function (FDE), by its offset.
    Function(usize),
    /// An entry too short to be either.
    Malformed,
}

/// Goes over the headers of the entries until the bytes end or an entry reaches beyond them.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'data> {
    bytes: &'data [u8],
    position: usize,
}

impl<'data> Entries<'data> {
    pub(crate) fn new(bytes: &'data [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Offset of the entry that comes next.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    fn word(&self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(offset..)?.first_chunk().copied()?))
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let start = self.position;
        let short = self.word(start)?;
        let (body, length) = if short == EXTENDED_LENGTH {
            let long = self.bytes.get(start + 4..)?.first_chunk().copied()?;
            (start + 12, usize::try_from(u64::from_le_bytes(long)).ok()?)
        } else {
            (start + 4, short as usize)
        };
        let end = body.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        self.position = end;
        Some(match length {
            0 => Entry::Terminator,
            1..4 => Entry::Malformed,
            _ if self.word(body)? == 0 => Entry::Common,
            _ => Entry::Function(start),
        })
    }
}

/// A function that `.eh_frame` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// First link address.
    pub(crate) start: u64,
    /// Link address after the last.
    pub(crate) end: u64,
    /// Offset of its entry in `.eh_frame`.
    pub(crate) entry: usize,
}

/// More bytes of call frame instructions would have to be run than the caller allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfWork;

/// Parses entries of functions, within a budget of bytes gone over: a small entry can refer to a large common one, so
/// the size of `.eh_frame` does not bound the work in it.
#[derive(Debug)]
pub(crate) struct Parser<'data> {
    bytes: &'data [u8],
    eh_frame: EhFrame<Bytes<'data>>,
    bases: BaseAddresses,
    /// The common entry parsed last and its offset: neighbours mostly share one.
    common: Option<(usize, gimli::Result<CommonInformationEntry<Bytes<'data>>>)>,
    work_left: u64,
}

impl<'data> Parser<'data> {
    pub(crate) fn new(bytes: &'data [u8], link_address: u64, max_work_bytes: u64) -> Self {
        let mut eh_frame = EhFrame::new(bytes, LittleEndian);
        eh_frame.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(link_address);
        Self {
            bytes,
            eh_frame,
            bases,
            common: None,
            work_left: max_work_bytes,
        }
    }

    pub(crate) fn eh_frame(&self) -> &EhFrame<Bytes<'data>> {
        &self.eh_frame
    }

    pub(crate) fn bases(&self) -> &BaseAddresses {
        &self.bases
    }

    /// Parses the entry at `offset`, without running its instructions.
    pub(crate) fn entry(
        &mut self,
        offset: usize,
    ) -> Result<gimli::Result<FrameDescriptionEntry<Bytes<'data>>>, OutOfWork> {
        let Self {
            bytes,
            eh_frame,
            bases,
            common,
            ..
        } = self;
        let mut work = 0;
        let parsed = eh_frame.fde_from_offset(bases, EhFrameOffset(offset), |eh_frame, bases, at| {
            if let Some((known, parsed)) = common
                && *known == at.0
            {
                return parsed.clone();
            }
            let mut entries = Entries { bytes, position: at.0 };
            if entries.next().is_some() {
                work = entries.position - at.0;
            }
            let parsed = eh_frame.cie_from_offset(bases, at);
            *common = Some((at.0, parsed.clone()));
            parsed
        });
        self.spend(work)?;
        Ok(parsed)
    }

    /// Accounts for running the instructions of an entry and of its common entry.
    pub(crate) fn spend_on_rows(&mut self, entry: &FrameDescriptionEntry<Bytes<'data>>) -> Result<(), OutOfWork> {
        self.spend(entry.entry_len().saturating_add(entry.cie().entry_len()))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), OutOfWork> {
        self.work_left = self.work_left.checked_sub(bytes as u64).ok_or(OutOfWork)?;
        Ok(())
    }
}

/// All functions of an object.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// Sorted by address.
    pub(crate) functions: Vec<Function>,
    /// Entries of functions that the object does not load.
    pub(crate) without_code: u64,
    /// Entries that are damaged.
    pub(crate) malformed: u64,
    /// What is left of [`Limits::max_work_bytes`].
    pub(crate) work_left: u64,
}

impl Listing {
    /// Lists the functions that call frame information describes.
    pub(crate) fn read(
        bytes: &[u8],
        link_address: u64,
        segments: &Segments,
        limits: &Limits,
    ) -> Result<Self, CompileError> {
        let mut parser = Parser::new(bytes, link_address, limits.max_work_bytes);
        let mut entries = Entries::new(bytes);
        let (mut functions, mut without_code, mut malformed) = (Vec::new(), 0, 0);
        for entry in entries.by_ref() {
            let offset = match entry {
                Entry::Function(offset) => offset,
                Entry::Common | Entry::Terminator => continue,
                Entry::Malformed => {
                    malformed += 1;
                    continue;
                }
            };
            match parser.entry(offset).map_err(|OutOfWork| too_much_work(limits))? {
                Ok(entry) => match loaded_part(&entry, segments) {
                    Some((start, end)) if functions.len() < limits.max_functions as usize => {
                        functions.push(Function {
                            start,
                            end,
                            entry: offset,
                        });
                    }
                    Some(_) => {
                        return Err(CompileError::TooManyFunctions {
                            limit: limits.max_functions,
                        });
                    }
                    None => without_code += 1,
                },
                Err(_) => malformed += 1,
            }
        }
        // An entry that reaches beyond the end, and whatever may have come after it.
        if bytes.len() - entries.position() >= size_of::<u32>() {
            malformed += 1;
        }
        functions.sort_unstable_by_key(|function| (function.start, function.entry));
        Ok(Self {
            functions,
            without_code,
            malformed,
            work_left: parser.work_left,
        })
    }

    /// Whether a function describes some of a range.
    pub(crate) fn describes_any_of(&self, range: &Range<u64>) -> bool {
        self.functions
            .iter()
            .any(|function| function.start < range.end && range.start < function.end)
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

//! Code that call frame information says nothing about.
//!
//! In: section headers, and where the described functions lie. Out: the pieces of code between them that are long enough to
//! hold functions, with their bytes.

use std::ops::Range;

use object::read::ReadRef;

use crate::compile::Limits;
use crate::elf::Elf;
use crate::function::Function;
use crate::linkage::{self, LinkageTable};
use crate::segments::Segments;

/// What is shorter than this is taken to be padding.
pub(crate) const MIN_BYTES: u64 = 64;

/// A piece of code that nothing describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undescribed<'data> {
    /// Link address of its first byte.
    pub(crate) start: u64,
    pub(crate) bytes: &'data [u8],
}

/// Finds such code in sections that hold code, within limits. The functions are sorted by address.
pub(crate) fn find<'data, R: ReadRef<'data>>(
    elf: &Elf<'data, R>,
    segments: &Segments,
    functions: &[Function],
    linkage: Option<&LinkageTable>,
    limits: &Limits,
) -> Vec<Undescribed<'data>> {
    let mut sections: Vec<_> = linkage::code_sections(elf).collect();
    sections.sort_by_key(|section| section.start);
    let linkage = linkage.map(|linkage| linkage.range.clone());
    let mut bytes_left = limits.max_undescribed_bytes;
    let mut found = Vec::new();
    let mut covered = 0;
    let mut functions = functions.iter().peekable();
    for section in sections {
        while let Some(before) = functions.next_if(|function| function.start < section.start) {
            covered = covered.max(before.end);
        }
        covered = covered.max(section.start);
        loop {
            let described = functions.next_if(|function| function.start < section.end);
            let end = described.map_or(section.end, |function| function.start);
            for piece in without(covered..end, linkage.as_ref()) {
                let size = piece.end.saturating_sub(piece.start);
                if size < MIN_BYTES || size > bytes_left {
                    continue;
                }
                if let Some(bytes) = read(elf, segments, &piece) {
                    bytes_left -= size;
                    let start = piece.start;
                    found.push(Undescribed { start, bytes });
                }
            }
            let Some(described) = described else { break };
            covered = covered.max(described.end);
        }
        covered = covered.max(section.end);
    }
    found
}

/// The parts of a piece before and behind a range.
fn without(piece: Range<u64>, range: Option<&Range<u64>>) -> [Range<u64>; 2] {
    match range.filter(|range| range.start < piece.end && piece.start < range.end) {
        Some(range) => [piece.start..range.start, range.end..piece.end],
        None => [piece.clone(), piece.end..piece.end],
    }
}

fn read<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, segments: &Segments, piece: &Range<u64>) -> Option<&'data [u8]> {
    let segment = segments.containing(piece.start)?;
    if segment.link_range().end < piece.end {
        return None;
    }
    let offset = segment.file_offset + (piece.start - segment.link_address);
    elf.data().read_bytes_at(offset, piece.end - piece.start).ok()
}

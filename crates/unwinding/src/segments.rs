//! Executable segments: what ties a mapping in a process to the link addresses of its object.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{PF_X, PT_LOAD};
use object::read::ReadRef;

use crate::elf::{Elf, ElfError};

/// What the kernel maps files in, and what offsets of mappings are rounded to.
const MAPPING_GRANULE: u64 = 4096;

/// One executable segment as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes begin in the file.
    pub file_offset: u64,
    /// The address it is linked at.
    pub link_address: u64,
    /// Bytes that come from the file.
    pub size: u64,
}

impl Segment {
    /// Link addresses of the bytes that come from the file.
    pub fn link_range(&self) -> Range<u64> {
        // Cannot overflow: `Segments::parse` accepts no segment that wraps.
        self.link_address..self.link_address + self.size
    }
}

/// The executable segments of an object, sorted by link address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    executable: Vec<Segment>,
}

impl Segments {
    /// Reads the executable segments of an x86-64 object. Objects without code have none.
    pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Self, ElfError> {
        Self::of(&Elf::parse(data)?)
    }

    pub(crate) fn of<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>) -> Result<Self, ElfError> {
        let mut executable = Vec::new();
        for header in elf.program_headers()? {
            let segment = Segment {
                file_offset: header.p_offset.get(LittleEndian),
                link_address: header.p_vaddr.get(LittleEndian),
                size: header.p_filesz.get(LittleEndian),
            };
            let is_code = header.p_type.get(LittleEndian) == PT_LOAD && header.p_flags.get(LittleEndian).contains(PF_X);
            if !is_code || segment.size == 0 {
                continue;
            }
            if segment.link_address.checked_add(segment.size).is_none()
                || segment.file_offset.checked_add(segment.size).is_none()
            {
                return Err(ElfError::SegmentWraps {
                    link_address: segment.link_address,
                    size: segment.size,
                });
            }
            executable.push(segment);
        }
        executable.sort_by_key(|segment| segment.link_address);
        Ok(Self { executable })
    }

    /// The segments, sorted by link address.
    pub fn executable(&self) -> &[Segment] {
        &self.executable
    }

    /// Runtime minus link address, wrapping, for a mapping of this object that starts at `mapping_start` with the byte at
    /// `file_offset`. `None` if no executable segment lies there.
    ///
    /// A mapping begins at the page that holds the segment's first byte, or, after parts of it were unmapped or got other
    /// rights, at any later page of the segment.
    pub fn bias(&self, mapping_start: u64, file_offset: u64) -> Option<u64> {
        let first_page = |segment: &Segment| segment.file_offset & !(MAPPING_GRANULE - 1);
        // A page of the file can hold the end of one segment and the start of the next, and is then mapped once for each.
        let begins_here = self
            .executable
            .iter()
            .find(|segment| first_page(segment) == file_offset);
        let segment = begins_here.or_else(|| {
            self.executable
                .iter()
                .find(|segment| (first_page(segment)..segment.file_offset + segment.size).contains(&file_offset))
        })?;
        Some(
            mapping_start
                .wrapping_sub(file_offset)
                .wrapping_sub(segment.link_address.wrapping_sub(segment.file_offset)),
        )
    }

    /// The segment that holds a link address.
    pub(crate) fn containing(&self, link_address: u64) -> Option<&Segment> {
        let after = self
            .executable
            .partition_point(|segment| segment.link_address <= link_address);
        self.executable[..after]
            .last()
            .filter(|segment| segment.link_range().contains(&link_address))
    }
}

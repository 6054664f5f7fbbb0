//! Functions that no symbol names, told apart by the call frame information of the object.
//!
//! A stripped object keeps `.eh_frame_hdr`, a table of all functions sorted by address (Linux Standard Base 5.0, 10.6.2). It
//! gives each address the start of its function, so that the addresses of one function are one frame.

use crate::{
    elf::Layout,
    source::{ReadAt, read_exact_at},
};

/// Bytes before the table: version, three encodings, the address of `.eh_frame`, and the number of entries.
const HEADER_BYTES: u64 = 12;
/// Version 1, `.eh_frame` and table in the only encodings that linkers write: `pcrel | sdata4`, `udata4`,
/// `datarel | sdata4` (DW_EH_PE_* of the Linux Standard Base).
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
const ENTRY_BYTES: u64 = 8;
/// What is read of a function's description: length, CIE, start and size, 4 bytes each.
const DESCRIPTION_BYTES: usize = 16;

/// The sorted table of an object, as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnnamedFunctions {
    /// File offset of the first entry.
    table: u64,
    count: u64,
    /// Link address of the header: what entries are relative to.
    address: u64,
    /// File offset minus link address of `.eh_frame`, and its link addresses.
    frames_bias: u64,
    frames: (u64, u64),
}

impl UnnamedFunctions {
    /// Finds the table; `None` if the object has none that this reader knows.
    pub(crate) fn read(source: &dyn ReadAt, layout: &Layout) -> Option<Self> {
        let (header, frames) = (layout.section(b".eh_frame_hdr")?, layout.section(b".eh_frame")?);
        if !header.has_bytes() || !frames.has_bytes() {
            return None;
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        read_exact_at(source, header.offset, &mut bytes).ok()?;
        let count = u64::from(u32::from_le_bytes(*bytes.last_chunk()?));
        let fits = header.size.saturating_sub(HEADER_BYTES) / ENTRY_BYTES;
        (*bytes.first_chunk()? == HEADER).then_some(Self {
            table: header.offset.checked_add(HEADER_BYTES)?,
            count: count.min(fits),
            address: header.address,
            frames_bias: frames.offset.wrapping_sub(frames.address),
            frames: (frames.address, frames.end()),
        })
    }

    /// Start of the function at an address; `None` if it is in no function, or one of an unknown form.
    pub(crate) fn start_of(&self, source: &dyn ReadAt, link_address: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(source, middle)?.0 <= link_address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let (start, description) = self.entry(source, low.checked_sub(1)?)?;
        let size = self.size_of(source, start, description)?;
        (link_address.checked_sub(start)? < size).then_some(start)
    }

    /// Link addresses of a function and of its description.
    fn entry(&self, source: &dyn ReadAt, index: u64) -> Option<(u64, u64)> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        read_exact_at(source, self.table.checked_add(index * ENTRY_BYTES)?, &mut bytes).ok()?;
        let word = |at: usize| i32_at(&bytes, at).map(|offset| self.address.wrapping_add_signed(i64::from(offset)));
        Some((word(0)?, word(4)?))
    }

    /// Bytes of a function, if its description begins as those of nearly all do: its start, relative to the place
    /// where that stands, in 4 bytes. That it comes out as the start in the table shows that it does.
    fn size_of(&self, source: &dyn ReadAt, start: u64, description: u64) -> Option<u64> {
        let (first, end) = self.frames;
        if description < first || description.checked_add(DESCRIPTION_BYTES as u64)? > end {
            return None;
        }
        let mut bytes = [0; DESCRIPTION_BYTES];
        read_exact_at(source, description.wrapping_add(self.frames_bias), &mut bytes).ok()?;
        let stands_at = description + 8;
        let described = stands_at.wrapping_add_signed(i64::from(i32_at(&bytes, 8)?));
        (described == start).then(|| u64::from(i32_at(&bytes, 12).unwrap_or_default().cast_unsigned()))
    }
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

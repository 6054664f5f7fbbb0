//! Strings of the interpreter: `str` objects, and `bytes` objects.

use super::memory::{ProcessMemory, Reads, half_at, word_at};
use super::offsets::{Object, Text};

/// Most bytes of the part of a string before its characters.
const MAX_HEADER_BYTES: u32 = 256;
/// Ends a string that was cut.
const CUT: char = '…';

/// How the strings of a process are told and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings {
    pub(super) text: Text,
    pub(super) object: Object,
    /// Runtime address of `PyUnicode_Type`.
    pub(super) text_type: u64,
    /// Runtime address of `PyBytes_Type`.
    pub(super) bytes_type: u64,
}

impl Strings {
    /// Reads a `str`, of which no more than so many characters are kept.
    pub fn text(&self, memory: &(impl ProcessMemory + ?Sized), address: u64, max_characters: usize) -> Option<String> {
        let Text {
            length,
            state,
            ascii,
            other,
            kind_shift,
        } = self.text;
        let header_bytes = [length + 8, state + 4, self.object.kind + 8]
            .into_iter()
            .fold(0, u32::max)
            .min(MAX_HEADER_BYTES);
        let header = memory.bytes(address, header_bytes as usize)?;
        if word_at(&header, self.object.kind)? != self.text_type {
            return None;
        }
        let length = word_at(&header, length)?;
        let state = half_at(&header, state)? >> kind_shift;
        let (kind, is_compact, is_ascii) = (state & 7, state >> 3 & 1 == 1, state >> 4 & 1 == 1);
        let width = match kind {
            1 | 2 | 4 if is_compact => kind as usize,
            _ => return None,
        };
        let characters = length.min(max_characters as u64) as usize;
        let start = address.wrapping_add(u64::from(if is_ascii { ascii } else { other }));
        // Behind the last character is a zero, and nowhere else: so that nothing else passes for a name.
        let bytes = memory.bytes(start, (characters + 1) * width)?;
        let (bytes, behind) = bytes.split_at(characters * width);
        let is_cut = length > characters as u64;
        let is_whole = is_cut || behind.iter().all(|byte| *byte == 0);
        let has_zero = bytes
            .chunks_exact(width)
            .any(|character| character.iter().all(|byte| *byte == 0));
        if !is_whole || has_zero || (is_ascii && !bytes.is_ascii()) {
            return None;
        }
        let mut text: String = bytes.chunks_exact(width).map(character).collect();
        if is_cut {
            text.push(CUT);
        }
        Some(text)
    }

    /// Reads a `bytes` of at most so many bytes.
    pub(super) fn bytes(
        &self,
        memory: &(impl ProcessMemory + ?Sized),
        address: u64,
        max_bytes: u64,
    ) -> Option<Vec<u8>> {
        let length = self.bytes_length(memory, address)?;
        let start = address.wrapping_add(u64::from(self.object.bytes));
        if length > max_bytes {
            return None;
        }
        // Behind the last byte is a zero.
        let mut bytes = memory.bytes(start, length as usize + 1)?;
        (bytes.pop() == Some(0)).then_some(bytes)
    }

    /// The length of a `bytes`.
    pub(super) fn bytes_length(&self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Option<u64> {
        let kind = memory.word(address.wrapping_add(u64::from(self.object.kind)))?;
        (kind == self.bytes_type).then(|| memory.word(address.wrapping_add(u64::from(self.object.size))))?
    }
}

/// A character of one, two or four bytes. Lone surrogates, which Python allows, are none.
fn character(bytes: &[u8]) -> char {
    let number = bytes
        .iter()
        .rev()
        .fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
}

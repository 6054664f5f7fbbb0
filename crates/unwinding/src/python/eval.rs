//! Where the evaluation loop lies: the function and what the compiler put apart from it.
//!
//! Compilers move parts of `_PyEval_EvalFrameDefault` that they hold for cold elsewhere, without a name of their own; of
//! some builds that is where all the time goes. Jumps that leave the function tell: those that land in the middle of
//! what `.eh_frame` describes as one piece of code land in a part of the same function, because calls at a function's end
//! land at the start of another.

use std::ops::Range;

use gimli::{BaseAddresses, EhFrameHdr, Pointer};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use object::LittleEndian;
use object::elf::PT_GNU_EH_FRAME;
use object::read::ReadRef;

use super::error::PythonError;
use super::image::Image;
use super::thread_local::is_near;

const FUNCTION: &str = "_PyEval_EvalFrameDefault";
/// Most bytes of code that are looked at; the largest loops seen have 80 KiB.
const MAX_CODE_BYTES: u64 = 1 << 20;
/// Most bytes of the search table; that of an interpreter has some 200 KiB.
const MAX_TABLE_BYTES: u64 = 8 << 20;
/// Most parts of the function.
const MAX_PARTS: usize = 16;

/// Link addresses of the evaluation loop, sorted.
///
/// # Errors
/// If the object does not define it. Parts are left out where there is no search table.
pub(super) fn ranges<'data, R: ReadRef<'data>>(image: &Image<'data, R>) -> Result<Vec<Range<u64>>, PythonError> {
    let main = image.required(FUNCTION)?.range();
    let mut found = vec![main.clone()];
    let length = (main.end - main.start).min(MAX_CODE_BYTES);
    if let (Some(code), Some(pieces)) = (image.bytes(main.start, length), Pieces::read(image)) {
        for target in jumps_out(code, &main) {
            let is_new = !found.iter().any(|part| part.contains(&target));
            if let Some(piece) = pieces
                .containing(target)
                .filter(|piece| is_new && piece.start != target)
            {
                found.push(piece);
            }
            if found.len() == MAX_PARTS {
                break;
            }
        }
    }
    found.sort_by_key(|part| part.start);
    Ok(found)
}

/// Where direct jumps of a function lead to outside of it.
fn jumps_out(code: &[u8], function: &Range<u64>) -> impl Iterator<Item = u64> {
    Decoder::with_ip(64, code, function.start, DecoderOptions::NONE)
        .into_iter()
        .filter(|instruction| instruction.mnemonic() != Mnemonic::Call && is_near(instruction))
        .map(|instruction| instruction.near_branch_target())
        .filter(|target| !function.contains(target))
}

/// Starts of all pieces of code that are described, sorted.
#[derive(Debug)]
struct Pieces(Vec<u64>);

impl Pieces {
    fn read<'data, R: ReadRef<'data>>(image: &Image<'data, R>) -> Option<Self> {
        let header = image.segment(PT_GNU_EH_FRAME)?;
        let link_address = header.p_vaddr.get(LittleEndian);
        let size = header.p_filesz.get(LittleEndian);
        let bytes = (size <= MAX_TABLE_BYTES)
            .then(|| image.bytes(link_address, size))
            .flatten()?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(link_address);
        let parsed = EhFrameHdr::new(bytes, gimli::LittleEndian).parse(&bases, 8).ok()?;
        let table = parsed.table()?;
        let mut entries = table.iter(&bases);
        let mut starts = Vec::new();
        while let Ok(Some((start, _))) = entries.next() {
            if let Pointer::Direct(start) = start {
                starts.push(start);
            }
        }
        starts.sort_unstable();
        Some(Self(starts))
    }

    /// The piece that an address lies in, up to the next one: alignment between them runs no code.
    fn containing(&self, address: u64) -> Option<Range<u64>> {
        let after = self.0.partition_point(|start| *start <= address);
        Some(*self.0.get(after.checked_sub(1)?)?..*self.0.get(after)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_that_leave() {
        // je +2 (inside); je 0x1100; call 0x2000; jmp 0x1206; jmp rax
        let code = [
            0x74, 0x02, 0x0f, 0x84, 0xf8, 0, 0, 0, 0xe8, 0xf3, 0x0f, 0, 0, 0xe9, 0xf4, 0x01, 0, 0, 0xff, 0xe0,
        ];
        let function = 0x1000..0x1014;
        assert_eq!(jumps_out(&code, &function).collect::<Vec<_>>(), [0x1100, 0x1206]);
    }

    #[test]
    fn pieces_reach_to_the_next() {
        let pieces = Pieces(vec![0x1000, 0x1100, 0x1200]);
        assert_eq!(pieces.containing(0x1100), Some(0x1100..0x1200));
        assert_eq!(pieces.containing(0x10ff), Some(0x1000..0x1100));
        assert_eq!(pieces.containing(0xfff), None);
        // Nothing says where the last one ends.
        assert_eq!(pieces.containing(0x1200), None);
    }
}

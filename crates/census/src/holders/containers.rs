//! What the containers of the interpreter refer to, where that is not in their own blocks.

use std::ops::ControlFlow;

use profiler_unwinding::python::ProcessMemory;

use crate::{
    dicts::{Dicts, MAX_ENTRIES},
    types::Kind,
    words::{is_address, word},
};

/// Bytes read of a container at once.
const PIECE_BYTES: usize = 64 << 10;
/// Blocks of a deque that are followed.
const MAX_DEQUE_BLOCKS: usize = 1 << 14;
/// Offsets: `ob_size`, `PyListObject.ob_item`, `PySetObject.used`, `.mask` and `.table`, `dequeobject.leftblock`.
const SIZE: usize = 16;
const LIST_ITEMS: usize = 24;
const SET_USED: usize = 24;
const SET_MASK: usize = 32;
const SET_TABLE: usize = 40;
const DEQUE_BLOCK: usize = 24;
/// A deque's block: the one to its left, 64 items, the one to its right.
const DEQUE_BLOCK_WORDS: usize = 66;

/// A reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// To this object.
    pub(super) to: u64,
    /// From this word; of a dict, none.
    pub(super) at: u64,
    /// By this key of a dict; 0 for none.
    pub(super) key: u64,
}

/// How many items a container has.
pub(super) fn items(kind: Kind, object: &[u8]) -> u64 {
    let offset = match kind {
        Kind::Set => SET_USED,
        Kind::List | Kind::Tuple | Kind::Dict | Kind::Deque => SIZE,
        Kind::Weak | Kind::Other => return 0,
    };
    word(object, offset).unwrap_or(0)
}

/// Hands on what a container refers to outside of its block. What cannot be read is left out.
pub(super) fn references<M: ProcessMemory + ?Sized>(
    dicts: &Dicts<'_, M>,
    kind: Kind,
    object: &[u8],
    mut found: impl FnMut(Reference),
) {
    // A part that cannot be read ends the list: what was handed on before stands.
    let _whole = match kind {
        Kind::Dict => dicts.for_each_of(object, MAX_ENTRIES, |key, to| {
            found(Reference { to, at: 0, key });
            found(Reference { to: key, at: 0, key });
            ControlFlow::Continue(())
        }),
        Kind::List => list(dicts, object, &mut found),
        Kind::Set => set(dicts, object, &mut found),
        Kind::Deque => deque(dicts, object, &mut found),
        Kind::Tuple | Kind::Weak | Kind::Other => None,
    };
}

fn list<M: ProcessMemory + ?Sized>(
    dicts: &Dicts<'_, M>,
    object: &[u8],
    found: &mut impl FnMut(Reference),
) -> Option<()> {
    let (count, from) = (word(object, SIZE)?, word(object, LIST_ITEMS)?);
    words(dicts, from, count.min(MAX_ENTRIES), |at, to| {
        found(Reference { to, at, key: 0 })
    })
}

fn set<M: ProcessMemory + ?Sized>(
    dicts: &Dicts<'_, M>,
    object: &[u8],
    found: &mut impl FnMut(Reference),
) -> Option<()> {
    let (mask, from) = (word(object, SET_MASK)?, word(object, SET_TABLE)?);
    let entries = mask.saturating_add(1).min(MAX_ENTRIES);
    // Each entry is a key and its hash, which is no address as a rule; and if it is, of nothing that is wanted.
    words(dicts, from, entries * 2, |at, to| found(Reference { to, at, key: 0 }))
}

fn deque<M: ProcessMemory + ?Sized>(
    dicts: &Dicts<'_, M>,
    object: &[u8],
    found: &mut impl FnMut(Reference),
) -> Option<()> {
    let mut block = word(object, DEQUE_BLOCK)?;
    let mut left = word(object, SIZE)?;
    let mut bytes = [0; DEQUE_BLOCK_WORDS * 8];
    for _ in 0..MAX_DEQUE_BLOCKS {
        if !is_address(block) || !dicts.memory.read(block, &mut bytes) {
            return None;
        }
        for index in 1..DEQUE_BLOCK_WORDS - 1 {
            let at = block.wrapping_add(index as u64 * 8);
            found(Reference {
                to: word(&bytes, index * 8)?,
                at,
                key: 0,
            });
        }
        left = left.saturating_sub(DEQUE_BLOCK_WORDS as u64 - 2);
        block = word(&bytes, (DEQUE_BLOCK_WORDS - 1) * 8)?;
        // The first block may be filled from its middle.
        if block == 0 || left == 0 && !is_address(block) {
            return Some(());
        }
    }
    None
}

fn words<M: ProcessMemory + ?Sized>(
    dicts: &Dicts<'_, M>,
    from: u64,
    count: u64,
    mut found: impl FnMut(u64, u64),
) -> Option<()> {
    if count == 0 || !is_address(from) {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(count).ok()?.saturating_mul(8).min(PIECE_BYTES)];
    let mut done = 0;
    while done < count {
        let taken = usize::try_from(count - done).ok()?.min(PIECE_BYTES / 8);
        let start = from.wrapping_add(done * 8);
        if !dicts.memory.read(start, &mut bytes[..taken * 8]) {
            return None;
        }
        for index in 0..taken {
            found(start.wrapping_add(index as u64 * 8), word(&bytes, index * 8)?);
        }
        done += taken as u64;
    }
    Some(())
}

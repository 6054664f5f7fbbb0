//! Dicts as they lie in memory.

use std::ops::ControlFlow;

use profiler_unwinding::python::ProcessMemory;

use crate::{
    Interpreter,
    names::of_key,
    words::{half, is_address, word},
};

/// Most entries of one dict that are looked at.
pub(crate) const MAX_ENTRIES: u64 = 1 << 20;
/// Bytes read of a dict at once.
const PIECE_BYTES: u64 = 48 << 10;
/// `PyDictObject`: its keys, and its values where they are apart.
const KEYS: usize = 32;
const VALUES: usize = 40;
const DICT_BYTES: usize = 48;
/// What is read at once of where its keys begin.
const FIRST_BYTES: usize = 256;
const PAGE_BYTES: u64 = 4096;
/// `PyDictKeysObject`: up to the indices, before 3.11 and from it on.
const LONG_KEYS_HEAD: u64 = 40;
const SHORT_KEYS_HEAD: u64 = 32;
/// `DICT_KEYS_GENERAL`: its entries have a hash each.
const GENERAL: u8 = 0;

/// Reads dicts of one process.
#[derive(Debug)]
pub(crate) struct Dicts<'a, M: ?Sized> {
    pub(crate) interpreter: Interpreter,
    pub(crate) memory: &'a M,
}

/// Where the entries of a dict are.
#[derive(Clone, Copy, Debug)]
struct Keys {
    entries: u64,
    count: u64,
    /// Bytes of one, and of what precedes its key.
    width: u64,
    hash: u64,
    /// The first bytes from where they begin: of most dicts all.
    address: u64,
    bytes: [u8; FIRST_BYTES],
    read: usize,
}

impl Keys {
    /// Entries as they were read already.
    fn at_hand(&self, from: u64, bytes: usize) -> Option<&[u8]> {
        let offset = usize::try_from(from.checked_sub(self.address)?).ok()?;
        self.bytes[..self.read].get(offset..offset.checked_add(bytes)?)
    }
}

impl<M: ProcessMemory + ?Sized> Dicts<'_, M> {
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Hands each key with its value on, until that says stop. Values that are not there are zero.
    pub(crate) fn for_each(&self, dict: u64, most: u64, entry: impl FnMut(u64, u64) -> ControlFlow<()>) -> Option<()> {
        let mut head = [0; DICT_BYTES];
        if !self.memory.read(dict, &mut head) {
            return None;
        }
        self.for_each_of(&head, most, entry)
    }

    /// The same of a dict whose own bytes are known.
    pub(crate) fn for_each_of(
        &self,
        head: &[u8],
        most: u64,
        mut entry: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Option<()> {
        let keys = self.keys(word(head, KEYS)?)?;
        let apart = word(head, VALUES)?;
        let values = match apart {
            0 => None,
            values if is_address(values) => Some(values + self.interpreter.values_head()),
            _ => return None,
        };
        let count = keys.count.min(most);
        let piece = PIECE_BYTES / keys.width;
        let (mut bytes, mut values_bytes) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < count {
            let taken = piece.min(count - from);
            let start = keys.entries.wrapping_add(from * keys.width);
            let length = (taken * keys.width) as usize;
            let entries = match keys.at_hand(start, length) {
                Some(entries) => entries,
                None => {
                    bytes.resize(length, 0);
                    self.memory.read(start, &mut bytes).then_some(&bytes[..])?
                }
            };
            if let Some(values) = values {
                values_bytes.resize((taken * 8) as usize, 0);
                if !self.memory.read(values.wrapping_add(from * 8), &mut values_bytes) {
                    return None;
                }
            }
            for index in 0..taken as usize {
                let at = index * keys.width as usize + keys.hash as usize;
                let key = word(entries, at)?;
                let value = match values {
                    Some(_) => word(&values_bytes, index * 8)?,
                    None => word(entries, at + 8)?,
                };
                if entry(key, value).is_break() {
                    return Some(());
                }
            }
            from += taken;
        }
        Some(())
    }

    /// The value of a key that is a `str`, if it is among the first entries.
    pub(crate) fn find(&self, dict: u64, wanted: &str, within: u64) -> Option<u64> {
        let mut found = None;
        self.for_each(dict, within, |key, value| {
            if value != 0 && of_key(self.memory, &self.interpreter, key).is_some_and(|name| name == wanted) {
                found = Some(value);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        found
    }

    /// The key at a place among those that instances of a type share.
    pub(crate) fn shared_key(&self, found: u64, index: u64) -> Option<String> {
        let keys = self.word(found.wrapping_add(self.interpreter.shared_keys()))?;
        let keys = self.keys(keys)?;
        let entry = keys.entries.wrapping_add(index.checked_mul(keys.width)?);
        let key = self
            .word(entry.wrapping_add(keys.hash))
            .filter(|_| index < keys.count)?;
        of_key(self.memory, &self.interpreter, key)
    }

    fn keys(&self, address: u64) -> Option<Keys> {
        let mut head = [0; FIRST_BYTES];
        // What lies on the next page may not be there.
        let on_page = (PAGE_BYTES - address % PAGE_BYTES).max(LONG_KEYS_HEAD);
        let read = FIRST_BYTES.min(usize::try_from(on_page).ok()?);
        if !is_address(address) || !self.memory.read(address, &mut head[..read]) {
            return None;
        }
        let (head_bytes, index_bytes, count, width, hash) = if self.interpreter.has_small_key_headers() {
            let [log_size, log_index_bytes, kind, _] = half(&head, 8)?.to_le_bytes();
            if log_size > 40 || log_index_bytes > 44 {
                return None;
            }
            let (width, hash) = if kind == GENERAL { (24, 8) } else { (16, 0) };
            (SHORT_KEYS_HEAD, 1_u64 << log_index_bytes, word(&head, 24)?, width, hash)
        } else {
            let size = word(&head, 8)?;
            let index_width = match size {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (LONG_KEYS_HEAD, size.checked_mul(index_width)?, word(&head, 32)?, 24, 8)
        };
        Some(Keys {
            entries: address.checked_add(head_bytes)?.checked_add(index_bytes)?,
            count: count.min(MAX_ENTRIES),
            width,
            hash,
            address,
            bytes: head,
            read,
        })
    }
}

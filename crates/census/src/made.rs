//! Heaps made for tests: memory by address, pools with blocks, types, and an interpreter that they belong to.

use std::collections::BTreeMap;

use profiler_unwinding::python::ProcessMemory;

use crate::HEADER_BYTES;

const PAGE: u64 = 4096;

/// Pages at addresses, zero where nothing was put. Other pages are not mapped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let page = self.0.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[(at % PAGE) as usize] = *byte;
        }
    }

    pub(crate) fn put_words(&mut self, address: u64, words: &[u64]) {
        for (at, word) in (address..).step_by(8).zip(words) {
            self.put(at, &word.to_le_bytes());
        }
    }
}

impl ProcessMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let mut at = address;
        for byte in buffer {
            match self.0.get(&(at / PAGE)) {
                Some(page) => *byte = page[(at % PAGE) as usize],
                None => return false,
            }
            at = at.wrapping_add(1);
        }
        true
    }
}

/// A pool that is filled as the allocator does.
#[derive(Clone, Debug)]
pub(crate) struct MadePool {
    pub(crate) bytes: Vec<u8>,
    address: u64,
    block: usize,
    free: Vec<u64>,
    carved: u32,
}

impl MadePool {
    pub(crate) fn new(address: u64, bytes: usize, block: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            address,
            block,
            free: Vec::new(),
            carved: 0,
        }
    }

    /// Gives out so many blocks.
    pub(crate) fn carve(&mut self, blocks: u32) {
        self.carved = blocks;
        self.write();
    }

    /// Takes blocks back.
    pub(crate) fn free(&mut self, blocks: &[u64]) {
        self.free.extend(blocks);
        self.write();
    }

    /// Puts a word.
    pub(crate) fn put(&mut self, offset: usize, word: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// Where a block begins.
    pub(crate) fn block(&self, index: u64) -> u64 {
        self.address + HEADER_BYTES as u64 + index * self.block as u64
    }

    /// Puts words at the beginning of a block.
    pub(crate) fn fill(&mut self, index: u64, words: &[u64]) {
        let start = (self.block(index) - self.address) as usize;
        for (place, word) in words.iter().enumerate() {
            self.put(start + place * 8, *word);
        }
    }

    fn write(&mut self) {
        let (block, size) = (self.block as u64, self.bytes.len() as u64);
        let head = HEADER_BYTES as u64;
        let at = |index: u64| head + index * block;
        let used = u64::from(self.carved) - self.free.len() as u64;
        let mut next = 0;
        for index in self.free.clone() {
            self.put(at(index) as usize, next);
            next = self.address + at(index);
        }
        let words = [
            used,
            next,
            self.address,
            self.address,
            (block / 16 - 1) << 32 | 3,
            (size - block) << 32 | at(u64::from(self.carved)),
        ];
        for (index, word) in words.into_iter().enumerate() {
            self.put(index * 8, word);
        }
    }
}

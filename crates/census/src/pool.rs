//! Pools and their blocks.

use crate::words::{half, is_address, word};

/// Size of `struct pool_header`, rounded up as the allocator does.
pub const HEADER_BYTES: usize = 48;
/// Blocks are multiples of this (`ALIGNMENT`).
const ALIGNMENT: u32 = 16;
/// Sizes of blocks (`NB_SMALL_SIZE_CLASSES`).
const SIZES: u32 = 32;
/// More arenas than this has no process: the list of them alone would take a gigabyte.
const MAX_ARENAS: u32 = 1 << 24;
/// Blocks of the smallest size in the largest pool fit.
const MAX_BLOCKS: usize = 1024;

/// What the header of a pool in use says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    address: u64,
    block_bytes: u32,
    /// Blocks that were ever given out.
    carved: u32,
    /// Blocks in use.
    used: u32,
    first_free: u64,
}

/// Which blocks of a pool are free.
#[derive(Clone, Debug)]
struct FreeBlocks([u64; MAX_BLOCKS / 64]);

impl FreeBlocks {
    /// Notes a block. False if it was noted before.
    fn insert(&mut self, index: u32) -> bool {
        let (place, bit) = (index as usize / 64, 1 << (index % 64));
        let is_new = self.0[place] & bit == 0;
        self.0[place] |= bit;
        is_new
    }

    fn contains(&self, index: u32) -> bool {
        self.0[index as usize / 64] & 1 << (index % 64) != 0
    }
}

impl Pool {
    /// Reads the beginning of what may be a pool. `None` if it is none, or none of its blocks is in use.
    ///
    /// `struct pool_header`: count of blocks in use, first free block, neighbours in a list of pools, number of the arena, size
    /// class, offset of the first block that was never given out, and the largest offset that such a block may have.
    pub fn parse(address: u64, bytes: &[u8], pool_bytes: u64) -> Option<Self> {
        let used = half(bytes, 0)?;
        let first_free = word(bytes, 8)?;
        let (next, previous) = (word(bytes, 16)?, word(bytes, 24)?);
        let [arena, size_class, unused_from, last_unused] =
            [half(bytes, 32)?, half(bytes, 36)?, half(bytes, 40)?, half(bytes, 44)?];
        let pool_size = u32::try_from(pool_bytes).ok()?;
        if size_class >= SIZES || arena >= MAX_ARENAS || !is_address(next) || !is_address(previous) {
            return None;
        }
        let block_bytes = (size_class + 1) * ALIGNMENT;
        let head = HEADER_BYTES as u32;
        let carved_bytes = unused_from.checked_sub(head).filter(|_| unused_from <= pool_size)?;
        let carved = carved_bytes / block_bytes;
        let is_whole = carved_bytes.is_multiple_of(block_bytes) && last_unused == pool_size - block_bytes;
        (is_whole && (1..=carved).contains(&used)).then_some(Self {
            address,
            block_bytes,
            carved,
            used,
            first_free,
        })
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes from its beginning that were ever given out: what is to be read of it.
    pub fn used_bytes(&self) -> usize {
        HEADER_BYTES + self.carved as usize * self.block_bytes as usize
    }

    /// Size of its blocks.
    pub(crate) fn block_bytes(&self) -> u64 {
        u64::from(self.block_bytes)
    }

    /// Its blocks in use with their runtime addresses. `None` if its list of free blocks does not fit its header: it was forged, or
    /// changed while it was read.
    pub(crate) fn blocks<'a>(&self, bytes: &'a [u8]) -> Option<impl Iterator<Item = (u64, &'a [u8])> + use<'a>> {
        let free = self.free_blocks(bytes)?;
        let (address, size) = (self.address, self.block_bytes as usize);
        let carved = bytes.get(HEADER_BYTES..)?.get(..self.carved as usize * size)?;
        let blocks = (0_u32..).zip(carved.chunks_exact(size));
        Some(
            blocks
                .filter(move |(index, _)| !free.contains(*index))
                .map(move |(index, block)| {
                    let offset = HEADER_BYTES as u64 + u64::from(index) * size as u64;
                    (address.wrapping_add(offset), block)
                }),
        )
    }

    fn free_blocks(&self, bytes: &[u8]) -> Option<FreeBlocks> {
        let mut free = FreeBlocks([0; MAX_BLOCKS / 64]);
        let mut next = self.first_free;
        for _ in self.used..self.carved {
            let offset = next.checked_sub(self.address)?.checked_sub(HEADER_BYTES as u64)?;
            let index = u32::try_from(offset / self.block_bytes()).ok()?;
            let is_block = offset.is_multiple_of(self.block_bytes()) && index < self.carved;
            if !is_block || !free.insert(index) {
                return None;
            }
            next = word(bytes, HEADER_BYTES + usize::try_from(offset).ok()?)?;
        }
        (next == 0).then_some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::MadePool;

    const POOL: u64 = 0x7f00_0000_4000;

    fn used(made: &MadePool) -> Option<Vec<u64>> {
        let pool = Pool::parse(POOL, &made.bytes, made.bytes.len() as u64)?;
        let blocks = pool.blocks(&made.bytes)?;
        Some(blocks.map(|(address, _)| address - POOL).collect())
    }

    #[test]
    fn free_blocks_are_left_out() {
        let mut made = MadePool::new(POOL, 16 << 10, 64);
        made.carve(6);
        made.free(&[4, 1]);
        let block = |index: u64| 48 + 64 * index;
        assert_eq!(used(&made), Some(vec![block(0), block(2), block(3), block(5)]));
    }

    #[test]
    fn a_full_pool_of_each_size_and_version_is_read() {
        for pool_bytes in [4 << 10, 16 << 10] {
            for size in (16..=512).step_by(16) {
                let mut made = MadePool::new(POOL, pool_bytes, size);
                let capacity = (pool_bytes - 48) / size;
                made.carve(capacity as u32);
                assert_eq!(used(&made).unwrap().len(), capacity, "{pool_bytes} {size}");
            }
        }
    }

    #[test]
    fn forged_headers_and_lists_are_refused() {
        let good = || {
            let mut made = MadePool::new(POOL, 4 << 10, 32);
            made.carve(8);
            made.free(&[2, 5]);
            made
        };
        assert_eq!(used(&good()).unwrap().len(), 6);
        // A cycle, addresses outside, one within a block, one that was never given out, a list too long and too short.
        for (offset, value) in [
            (48 + 64, POOL + 48 + 64),
            (48 + 64, POOL + 8192),
            (48 + 64, POOL + 48 + 5),
            (48 + 64, POOL + 48 + 32 * 20),
            (48 + 64, u64::MAX),
            (48 + 64, POOL + 48),
            (48 + 160, 0),
        ] {
            let mut made = good();
            made.put(offset, value);
            assert_eq!(used(&made), None, "{offset} {value:x}");
        }
        // The header itself.
        for (offset, value) in [
            (0, 0_u64),
            (0, 9),
            (16, 0),
            (24, 3),
            (32, 31 << 32 | u64::from(u32::MAX)),
            (32, 32 << 32),
            (40, 0),
            (40, u64::MAX),
            (40, (4096 - 32) << 32 | 5000),
            (40, (4096 - 48) << 32 | (48 + 64)),
        ] {
            let mut made = good();
            made.put(offset, value);
            assert_eq!(Pool::parse(POOL, &made.bytes, 4 << 10), None, "{offset} {value:x}");
        }
        assert_eq!(Pool::parse(POOL, &[0; 47], 4 << 10), None);
    }
}

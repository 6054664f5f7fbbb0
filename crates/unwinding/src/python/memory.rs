//! Reading a process's memory, which may be anything by now.

/// The memory of one process.
pub trait ProcessMemory {
    /// Fills the buffer from this runtime address. False if any of it could not be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;
}

impl<M: ProcessMemory + ?Sized> ProcessMemory for &M {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        (**self).read(address, buffer)
    }
}

/// Reads of the sizes that CPython's structures are made of. Addresses wrap: they come from the process.
pub(crate) trait Reads: ProcessMemory {
    fn array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes).then_some(bytes)
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.array(address).map(u64::from_le_bytes)
    }

    fn half(&self, address: u64) -> Option<u32> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// The caller bounds the length.
    fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes).then_some(bytes)
    }
}

impl<M: ProcessMemory + ?Sized> Reads for M {}

/// The 8 bytes at an offset of what was read.
pub(crate) fn word_at(bytes: &[u8], offset: u32) -> Option<u64> {
    let rest = bytes.get(usize::try_from(offset).ok()?..)?;
    Some(u64::from_le_bytes(*rest.first_chunk()?))
}

/// The 4 bytes at an offset of what was read.
pub(crate) fn half_at(bytes: &[u8], offset: u32) -> Option<u32> {
    let rest = bytes.get(usize::try_from(offset).ok()?..)?;
    Some(u32::from_le_bytes(*rest.first_chunk()?))
}

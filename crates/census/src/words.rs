//! Words in what was read, and what may be one of them.

/// Lowest address that is mapped anywhere (`vm.mmap_min_addr`).
const LOWEST_ADDRESS: u64 = 0x1_0000;
/// End of the addresses of programs.
const ADDRESS_END: u64 = 1 << 47;

/// The word at an offset.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The half word at an offset.
pub(crate) fn half(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Whether a word may be the address of something that is aligned as all that the interpreter allocates.
pub(crate) fn is_address(word: u64) -> bool {
    word.is_multiple_of(8) && (LOWEST_ADDRESS..ADDRESS_END).contains(&word)
}

//! What one object may cost.

/// Bounds on memory and work for one object. The defaults fit the largest programs in common use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Function symbols that are kept, 16 bytes each. An object with more has no function table.
    pub functions: usize,
    /// Bytes of symbol tables that are read through.
    pub symbol_bytes: u64,
    /// Address ranges of compilation units that are kept, 24 bytes each. An object with more has no inlined frames.
    pub unit_ranges: usize,
    /// Bytes of all debug sections of an object together, as they are in the file. They are read in pages and never held.
    pub debug_bytes: u64,
    /// Bytes of compressed debug sections after decompression, all of an object together; these are held in memory
    /// while a batch is resolved, and after it until [`crate::ObjectSymbols::forget_inflated`].
    pub decompressed_bytes: u64,
    /// Work for one call in small steps, of which a core does roughly 50 to 200 million a second.
    pub effort: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            functions: 1 << 20,
            symbol_bytes: 256 << 20,
            unit_ranges: 1 << 18,
            debug_bytes: 2 << 30,
            decompressed_bytes: 64 << 20,
            effort: 1 << 28,
        }
    }
}

//! Values of the maps that describe a watched process to the walker.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the walker knows of a watched process. The key is its thread group id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessEntry {
    /// Changes whenever the rest of the entry, or what it refers to, changes.
    pub generation: u32,
    /// One of [`state`].
    pub state: u32,
    /// Index of its first mapping in the array of mappings, sorted by address.
    pub first_mapping: u32,
    /// Number of its mappings.
    pub mapping_count: u32,
}

/// Values of [`ProcessEntry::state`].
pub mod state {
    /// The mappings are those of the running program.
    pub const READY: u32 = 0;
    /// The process has executed a program whose mappings the daemon has not seen yet.
    pub const PENDING: u32 = 1;
}

/// One executable mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mapping {
    /// First runtime address.
    pub start: u64,
    /// Runtime address after the last.
    pub end: u64,
    /// Runtime address minus link address, wrapping.
    pub bias: u64,
    /// Index of link page 0 in the array of pages, wrapping: add the number of the link page.
    pub page_base: u32,
    /// One of [`kind`].
    pub kind: u32,
}

/// Values of [`Mapping::kind`].
pub mod kind {
    /// Rows describe it.
    pub const ROWS: u32 = 0;
    /// No rows exist (generated code, or an object without unwind tables): frame pointers are followed.
    pub const FRAME_POINTERS: u32 = 1;
    /// Its rows are being built.
    pub const PENDING: u32 = 2;
    /// The page of instructions that uprobes single-step (`[uprobes]`).
    pub const UPROBES: u32 = 3;
}

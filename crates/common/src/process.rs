//! Values of the maps that describe a watched process to the walker.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::program_pace;

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
    /// Index of its [`crate::python::PythonLayout`]; 0 if none is known.
    pub python: u32,
    /// Index of the pace at which its page faults are chosen: its own ([`crate::memory::process_pace`]), that of its parent until
    /// the daemon has seen it, or after an exec that of what it runs ([`crate::memory::program_pace`]).
    pub pace: u32,
    /// How far its parts lie from where those mappings say.
    pub relocation: Relocation,
}

/// The generation of entries that the kernel marked as pending by itself, at an exec. The daemon's own begin with 1.
pub const MARKED_GENERATION: u32 = 0;

/// Set in the generation of an entry that the kernel made at an exec from a [`Template`]. The mappings are those of an
/// earlier process that ran the same program, so that a stack walked with them has to be verified.
pub const TEMPLATE_GENERATION: u32 = 1 << 31;

/// Where the parts of a process lie, next to where they lay in the process that its mappings were taken from. All zero
/// for mappings that are the process's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Relocation {
    /// Not 0 if the rest counts.
    pub is_used: u64,
    /// First runtime address of the program's own code.
    pub program_start: u64,
    /// Runtime address after its last.
    pub program_end: u64,
    /// What is added to an address in it, wrapping.
    pub program_distance: u64,
    /// First runtime address of the vDSO.
    pub vdso_start: u64,
    /// Runtime address after its last.
    pub vdso_end: u64,
    /// What is added to an address in it, wrapping.
    pub vdso_distance: u64,
    /// What is added to all other addresses, wrapping: how far the dynamic loader lies. Libraries mostly keep their distance
    /// to it.
    pub other_distance: u64,
}

/// Words of a [`Relocation`].
pub const RELOCATION_WORDS: usize = size_of::<Relocation>() / size_of::<u64>();

impl Relocation {
    /// Nothing is moved.
    pub const NONE: Self = Self {
        is_used: 0,
        program_start: 0,
        program_end: 0,
        program_distance: 0,
        vdso_start: 0,
        vdso_end: 0,
        vdso_distance: 0,
        other_distance: 0,
    };

    /// The address in the process that the mappings were taken from.
    #[inline(always)]
    pub fn translate(&self, runtime_address: u64) -> u64 {
        if self.is_used == 0 {
            return runtime_address;
        }
        let distance = if runtime_address >= self.program_start && runtime_address < self.program_end {
            self.program_distance
        } else if runtime_address >= self.vdso_start && runtime_address < self.vdso_end {
            self.vdso_distance
        } else {
            self.other_distance
        };
        runtime_address.wrapping_add(distance)
    }
}

/// A file, as the kernel tells it from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileKey {
    /// `super_block.s_dev`.
    pub device: u64,
    /// `inode.i_ino`.
    pub inode: u64,
}

/// What the kernel laid out before a program's first instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Anchors {
    /// First byte of the program's code (`mm_struct.start_code`).
    pub code_start: u64,
    /// The dynamic loader (`AT_BASE`); 0 without one.
    pub loader_start: u64,
    /// The vDSO (`AT_SYSINFO_EHDR`).
    pub vdso_start: u64,
}

/// The last exec of a process. The key is its thread group id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exec {
    /// When it was: `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The program; all zero if it could not be told.
    pub program: FileKey,
    /// Where its parts lie.
    pub anchors: Anchors,
    /// What was entered for the process then.
    pub entry: ProcessEntry,
}

/// What is known of a program from an earlier process that ran it. The key is its [`FileKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Template {
    /// Where its parts lay in that process.
    pub anchors: Anchors,
    /// Runtime address after the last of the program's code there.
    pub code_end: u64,
    /// Runtime address after the last of the vDSO there.
    pub vdso_end: u64,
    /// For entries made from it, with [`TEMPLATE_GENERATION`].
    pub generation: u32,
    /// Index of the first mapping.
    pub first_mapping: u32,
    /// Number of mappings.
    pub mapping_count: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Template {
    /// The entry of a process that runs the program with its parts at these places.
    #[inline(always)]
    pub fn entry(&self, anchors: &Anchors) -> ProcessEntry {
        let program_distance = self.anchors.code_start.wrapping_sub(anchors.code_start);
        let vdso_distance = self.anchors.vdso_start.wrapping_sub(anchors.vdso_start);
        ProcessEntry {
            generation: self.generation,
            state: state::READY,
            first_mapping: self.first_mapping,
            mapping_count: self.mapping_count,
            python: 0,
            pace: program_pace(self.generation),
            relocation: Relocation {
                is_used: 1,
                program_start: anchors.code_start & !PAGE_MASK,
                program_end: self.code_end.wrapping_sub(program_distance),
                program_distance,
                vdso_start: anchors.vdso_start,
                vdso_end: self.vdso_end.wrapping_sub(vdso_distance),
                vdso_distance,
                other_distance: self.anchors.loader_start.wrapping_sub(anchors.loader_start),
            },
        }
    }
}

/// Addresses within a page of memory.
const PAGE_MASK: u64 = 4095;

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

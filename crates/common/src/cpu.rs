//! The record of one CPU sample.
//!
//! A record is a [`CpuSampleHeader`] followed by words of 8 bytes: `kernel_frames` addresses; `user_frames` addresses, with
//! [`flags::STACK_POINTERS`] each followed by the frame's stack pointer; `python_entries` [`crate::python::PythonEntry`]s of two
//! words; with [`flags::RELOCATED`] a [`crate::process::Relocation`]. Each stack has its innermost frame first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::THREAD_NAME_BYTES;

/// The fixed part of a CPU sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuSampleHeader {
    /// When the sample was taken: `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Thread group, as the user calls a process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Generation of the process's tables that the stack was walked with.
    pub generation: u32,
    /// CPU that the sample was taken on.
    pub cpu: u32,
    /// Frames of the kernel stack; 0 if the thread was interrupted in user mode.
    pub kernel_frames: u16,
    /// Frames of the user stack.
    pub user_frames: u16,
    /// Why the user stack ended: [`crate::stop::StopReason`].
    pub stop: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Entries of the Python stack.
    pub python_entries: u16,
    /// Why the Python stack ended: [`crate::python::PythonStop`].
    pub python_stop: u8,
    /// Bits of [`python_flags`].
    pub python_flags: u8,
    /// Always zero.
    pub reserved: [u8; 6],
    /// Name of the thread, ended by a zero.
    pub thread_name: [u8; THREAD_NAME_BYTES],
}

/// Bits of [`CpuSampleHeader::flags`].
pub mod flags {
    /// The thread was interrupted in the kernel.
    pub const IN_KERNEL: u8 = 1;
    /// The kernel stack could not be taken or was longer than fits.
    pub const KERNEL_STACK_INCOMPLETE: u8 = 2;
    /// The user stack was walked with the mappings of another process, moved as said after the stacks.
    pub const RELOCATED: u8 = 4;
    /// Each frame of the user stack has its stack pointer beside it.
    pub const STACK_POINTERS: u8 = 8;
}

/// Bits that say who had the lock of a Python interpreter when a sample was taken.
pub mod python_flags {
    /// The sampled thread had it.
    pub const HAS_GIL: u8 = 1;
    /// The bit above counts: it could be told.
    pub const GIL_KNOWN: u8 = 2;
}

//! Addresses of programs and of the kernel to names.
//!
//! In go the bytes of an ELF object, through [`ReadAt`], and link addresses; out come [`Frame`]s: the function at each
//! address with every call that the compiler inlined there, demangled, with file and line. [`KernelSymbols`] does the
//! same for the text of `/proc/kallsyms`, and [`PerfMap`] for code that a process generated and named itself. [`DebugHints`]
//! says where debug information may lie in a file of its own, and which file is the right one.
//!
//! Nothing here opens a file, knows a clock, or trusts what it reads. Objects are read in pages and never held whole:
//! debug information of any size costs the same few megabytes. Whatever an object claims, memory is bounded by
//! [`Limits`] and time by [`Limits::effort`]. Where an object lies or breaks a limit, its addresses get a poorer name or none,
//! and [`Resolution::debug_error`] says why.
#![forbid(unsafe_code)]

mod debug_files;
mod demangle;
mod dwarf;
mod effort;
mod elf;
mod functions;
mod kernel;
mod limits;
mod object_symbols;
mod paged;
mod perf_map;
mod plt;
mod segments;
mod source;
mod unnamed;

pub use debug_files::{DebugFileError, DebugHints};
pub use demangle::demangle;
pub use dwarf::DebugError;
pub use elf::{CommonLink, DebugLink, ElfError};
pub use kernel::{KernelSymbol, KernelSymbols, KernelSymbolsBuilder, KernelSymbolsError};
pub use limits::Limits;
pub use object_symbols::{Frame, ObjectSymbols, Resolution};
pub use perf_map::PerfMap;
pub use source::ReadAt;

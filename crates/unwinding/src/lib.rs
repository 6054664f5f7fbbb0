//! Unwind tables: from the `.eh_frame` of an object to rows that the stack walker can search.
//!
//! In come the bytes of an ELF object, through [`object::ReadRef`], so that a bounded file serves as well as a slice.
//! Out come a [`RowTable`], the [`Segments`] that tie mappings to link addresses, a [`ContentId`] under which processes share
//! rows, and the build id. A table can be made into bytes and back, page by page too. Nothing here does I/O of its own or knows a clock.
//!
//! Objects belong to the processes that are watched and are not trusted: sizes are held against [`Limits`] before
//! anything is read, work is bounded, and what cannot be expressed as a row becomes a row that says so. No part of a
//! function is ever left to the rule before it.
//!
//! Call frame information is described by DWARF 5, 6.4; its form in `.eh_frame` by the Linux Standard Base 5.0, 10.6;
//! the registers by the System V ABI, AMD64 supplement, figure 3.36.
#![forbid(unsafe_code)]

mod build_id;
mod call_frames;
mod compile;
mod deduced;
mod elf;
mod expression;
mod function;
mod identity;
mod linkage;
mod paged;
pub mod python;
mod rule;
mod segments;
mod stored;
mod table;
mod undescribed;

pub use build_id::BuildId;
pub use call_frames::CallFrames;
pub use compile::{CompileError, Limits, compile};
pub use elf::ElfError;
pub use identity::ContentId;
pub use paged::PageDirectory;
pub use rule::UnsupportedRule;
pub use segments::{Segment, Segments};
pub use stored::StoredError;
pub use table::{RowTable, Statistics};

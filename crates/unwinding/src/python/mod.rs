//! CPython: where an interpreter keeps the stacks of its threads, and what its functions are called.
//!
//! In come the file of an interpreter ([`InterpreterObject::read`]), where a process has it mapped, and the memory of that
//! process ([`InterpreterObject::layout`]). Out come a [`PythonLayout`](profiler_common::python::PythonLayout) for the
//! walker, held against the interpreter's own list of threads ([`Layout::validate`]), and the names and lines of the code
//! objects that it finds ([`Layout::read_code`]). Versions 3.8 to 3.15, free-threaded ones from 3.13 on. Another version, or a
//! layout that does not hold, is an error that says what was found: never a wrong name.
//!
//! All of it is what a process that is not trusted says of itself: every length, list and table is bounded.

mod code;
mod debug_offsets;
mod error;
mod eval;
mod image;
mod layout;
mod lines;
mod members;
mod memory;
mod object;
mod offsets;
mod strings;
mod tables;
mod thread_local;
mod thread_state;
mod threads;
mod validate;
mod version;

#[cfg(test)]
mod refusals;

pub use code::{Code, CodeError};
pub use error::PythonError;
pub use layout::Layout;
pub use memory::ProcessMemory;
pub use object::{InterpreterObject, Libc};
pub use strings::Strings;
pub use validate::{Validation, WalkedStack};
pub use version::{Release, Version};

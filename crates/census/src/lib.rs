//! The objects of a Python heap, counted by type from outside.
//!
//! In: what the file of an interpreter says ([`Interpreter::of`]), and the memory of a process that runs it, pool by pool
//! ([`Pool::parse`], [`Tally::add_pool`]). Out: how many objects of which type there are and what they take ([`Census`]), what
//! differs between two such counts ([`Difference`]), and who holds the objects that are new ([`Search`]).
//!
//! CPython keeps objects of up to 512 bytes in blocks of equal size, which fill pools with a header each
//! (`Objects/obmalloc.c`). A pool is known by that header, its list of free blocks, and nothing else; a block holds an object if it
//! refers to something that is a type, down to the type of types. What is larger is not seen.
//!
//! The process goes on meanwhile and is not trusted: whatever it has in its memory, the work is bounded by what is handed in, and
//! the result by [`MAX_TYPES`]. No I/O, no clock.
#![forbid(unsafe_code)]

mod counts;
mod dicts;
mod difference;
mod holders;
mod interpreter;
mod names;
mod pool;
mod sample;
mod tally;
mod types;
mod words;

#[cfg(test)]
mod made;
#[cfg(test)]
mod tests;

pub use counts::{Census, TypeCount};
pub use difference::{Change, Difference};
pub use holders::{Holder, Holders, MAX_SEARCHED_TYPES, Search, Step, Wanted};
pub use interpreter::{Interpreter, Refusal};
pub use pool::{HEADER_BYTES, Pool};
pub use tally::{PoolFound, Tally};
pub use types::{MAX_TYPES, TypeTable};

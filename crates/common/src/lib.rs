//! What the programs in the kernel and the daemon share.
//!
//! Records that cross the border ([`cpu`]), the layout of the maps ([`process`], [`python`], [`row`]), why a stack ended
//! ([`stop`]), what was counted ([`counters`]), the sizes of all of it ([`limits`]), and the logic of the stack walker
//! ([`walk`]) over a trait for memory and rows, so that one source runs in the kernel and under test on the host.
//!
//! Layouts are `repr(C)` with every byte named; the zerocopy derives refuse padding.
#![no_std]

pub mod counters;
pub mod cpu;
pub mod limits;
pub mod process;
pub mod python;
pub mod row;
pub mod stop;
pub mod walk;

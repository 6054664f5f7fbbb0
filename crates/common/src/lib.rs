//! What the programs in the kernel and the daemon share.
//!
//! Records that cross the border ([`cpu`], [`memory`], [`mapped`]), the layout of the maps ([`process`], [`python`], [`row`]), why
//! a stack ended ([`stop`]), what was counted ([`counters`]), the sizes of all of it ([`limits`]), and the logic of the walkers
//! of native and Python stacks ([`walk`], [`python_walk`]) over traits for memory and rows, so that one source runs in the
//! kernel and under test on the host.
//!
//! Layouts are `repr(C)` with every byte named; the zerocopy derives refuse padding.
#![no_std]

pub mod counters;
pub mod cpu;
pub mod limits;
pub mod mapped;
pub mod memory;
pub mod process;
pub mod python;
pub mod python_walk;
pub mod row;
pub mod stop;
pub mod walk;

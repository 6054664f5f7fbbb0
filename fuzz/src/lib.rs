//! What each fuzz target does with its input, one module a target.
//!
//! In: bytes that libFuzzer makes up. Out: nothing, or a panic where something must not be: a broken invariant, two ways to
//! the same answer that differ, memory beyond [`MEMORY_BYTES`]. Time and the depth of the stack are bounded by whoever
//! runs the target; `cargo xtask fuzz` does.
#![forbid(unsafe_code)]

use std::alloc::System;

use cap::Cap;

pub mod census;
pub mod config;
pub mod demangle;
pub mod discovery;
pub mod eh_frame;
pub mod elf_rows;
pub mod fault_record;
pub mod kallsyms;
pub mod lifecycle_record;
pub mod perf_map;
pub mod proc_parsers;
pub mod python_code;
pub mod python_object;
pub mod readings;
pub mod render;
pub mod rpc;
pub mod sample_record;
pub mod stored_rows;
pub mod symbols;
pub mod walk;

#[path = "../../profiler-cli/src/convert/mod.rs"]
mod cli_convert;
#[path = "../../crates/unwinding/tests/python/made.rs"]
#[expect(dead_code, reason = "the tests that it was made for use more of it")]
mod made;
mod made_up;
#[path = "../../crates/unwinding/tests/all/oracle.rs"]
mod oracle;
mod rows;
#[path = "../../crates/unwinding/tests/all/support.rs"]
#[allow(dead_code, reason = "shared with tests, which use more of it")]
mod support;

/// Most memory that a target may hold. Inputs are a few kilobytes, so whatever needs more believes what it reads.
pub const MEMORY_BYTES: usize = 96 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_BYTES);

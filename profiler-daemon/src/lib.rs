//! The profiling daemon as a library, so that tests run its stages in process.
//!
//! Modules are listed in the order in which a sample passes through them.

pub mod command;
pub mod health;
pub mod kernel;
pub mod logging;
pub mod notify;
pub mod processes;
pub mod stacks;
pub mod symbols;

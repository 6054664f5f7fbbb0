//! The profiling daemon as a library, so that tests run its stages in process.
//!
//! Modules are listed in the order in which a sample passes through them.
#![deny(unsafe_code)]

pub mod alerting;
pub mod api;
pub mod arguments;
pub mod budget;
pub mod census;
pub mod children;
pub mod command;
pub mod daemon;
pub mod engine;
pub mod evidence;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
#[allow(unsafe_code, reason = "the only door to the kernel; each block says why it is sound")]
pub mod kernel;
pub mod logging;
pub mod memory;
pub mod naming;
pub mod notify;
pub mod processes;
pub mod readings;
pub mod reload;
pub mod secrets;
pub mod sinks;
pub mod stacks;
pub mod symbols;
pub mod unsampled;
pub mod waker;

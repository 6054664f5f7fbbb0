//! The command line against a double of the daemon: every verb, exit code, message and format.
//!
//! The double is for these tests only: it answers as told, over a unix socket of its own. The real daemon is tested in the
//! kernel ring.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a test program: the setting for tests does not reach its helpers"
)]

mod alerts;
mod diff;
mod failures;
mod fake_daemon;
mod fixture;
mod growth;
mod help;
mod memory;
mod memory_growth;
mod messages;
mod metrics;
mod outputs;
mod program;
mod recording;
mod reports;
mod terminal;
mod top;

//! The harness of the tests that run the real daemon: see `daemon`, `programs` and `rights`.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod output;
pub mod programs;
mod rights;

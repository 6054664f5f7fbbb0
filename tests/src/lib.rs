//! The harness of the tests that run the real daemon: see `daemon`, `interpreters`, `programs` and `rights`.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod interpreters;
pub mod output;
pub mod programs;
mod rights;

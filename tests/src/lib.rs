//! The harness of the tests that run the real daemon: see `daemon` and `programs`.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod programs;

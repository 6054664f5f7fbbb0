//! The harness of the tests that run the real daemon: see `daemon`, `programs`, `rights`, `prometheus`, `not_run`, and
//! `interpreters`, `python` and `truth` for programs in Python.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod interpreters;
pub mod not_run;
mod options;
pub mod output;
pub mod programs;
pub mod prometheus;
pub mod python;
mod rights;
pub mod truth;

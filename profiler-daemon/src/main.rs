//! The profiling daemon: arguments, configuration, logging, exit code.
#![forbid(unsafe_code)]

fn main() {}

//! The profiling daemon: arguments, configuration, logging, exit code.

fn main() {}

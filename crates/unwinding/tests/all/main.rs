//! The compiler as its users see it: rules, objects, hostile input, and real libraries held against gimli and framehop.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they left out"
)]

mod differential_walk;
mod hostile;
mod objects;
mod oracle;
mod real_objects;
mod reference;
mod rules;
mod support;
mod tracee;

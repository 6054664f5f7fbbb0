//! Python as its users see it: each interpreter that is here, running, looked at from outside as the daemon does.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they left out"
)]

mod forged;
mod live;
mod made;
mod objects;
mod process;

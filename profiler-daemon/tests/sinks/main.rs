//! Sinks against receivers on this host: what they are told, and what happens when they are away, slow or hostile.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program: the settings for tests do not reach its helpers"
)]

mod alertmanager;
mod away;
mod commands;
mod double;
mod proxies;
mod receiver;
mod webhooks;

//! Profiles over time: a ring of windows in memory, bounded by age and by bytes, and queries over them.
//!
//! In: one named [`Profile`](profiler_profile::Profile) for each window. Out: what a process or a service did in a span,
//! merged. Pure: time is an argument. A [`Selection`] holds references to windows, so that a store behind a lock is
//! held only while they are picked, not while they are merged.

#![forbid(unsafe_code)]

mod query;
mod ring;

pub use query::{Answer, Found, Selection, Span, Target};
pub use ring::{Dropped, Limits, Status, Store};

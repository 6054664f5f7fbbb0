//! Profiles over time: a ring of windows in memory, bounded by age and by bytes, and queries over them; and readings over
//! time, likewise, in [`SeriesStore`]; and which code touched the memory that processes still have, in [`Growth`].
//!
//! In: one named [`Profile`](profiler_profile::Profile) for each window. Out: what a process or a service did in a span,
//! merged. Windows that follow each other share a dictionary of names and a tree of stacks, which makes a window an order of
//! magnitude smaller than its profile. Pure: time is an argument. A [`Selection`] holds references to windows, so that a store behind a lock is
//! held only while they are picked, not while they are merged.
//!
//! [`state`] alone does I/O: a file for what outlives the daemon.

#![forbid(unsafe_code)]

mod dictionary;
mod growth;
mod query;
mod ring;
mod series;
pub mod state;
mod window;

pub use growth::{
    Growth, GrowthAnswer, GrowthLimits, GrowthProcess, GrowthQuery, GrowthStatus, Look, PageLook, PageTouch,
    TouchedStack,
};
pub use query::{Answer, Found, Selection, Span, Target};
pub use ring::{Dropped, Limits, Status, Store};
pub use series::{
    Bucket, Latest, Moment, Owner, Range, SeriesDropped, SeriesLimits, SeriesRef, SeriesStatus, SeriesStore, Steps,
};

//! Readings: what the host, its processes and its control groups say of themselves.
//!
//! In: files below a root path that the caller gives. Out: [`Reading`]s, each with what was measured, of whom, and when. A
//! sampler never decides what a value means; limits do. What is read belongs to others and may lie, vanish or be
//! malformed: a source that cannot be read is a [`Gap`], never a zero.

#![forbid(unsafe_code)]

mod metric;
mod reading;

pub use metric::{Kind, Metric, Scope, Unit, UnknownMetric};
pub use reading::{Gap, Reading, Subject};

//! Readings: what the host, its processes, its control groups and its GPUs say of themselves.
//!
//! In: files below a root path that the caller gives, and the library of the GPUs' driver. Out: [`Reading`]s, each with what was measured, of whom, and when. A
//! sampler never decides what a value means; limits do. What is read belongs to others and may lie, vanish or be
//! malformed: a source that cannot be read is a [`Gap`], never a zero.
//!
//! A gap is a reading that is not there. Whether it may come back is told by the state of its source:
//! [`Source::of`] the metric, and [`SourceState::gap`].

#![forbid(unsafe_code)]

mod cgroup;
mod file;
mod gpu;
mod growth;
mod host;
mod metric;
mod process;
mod proportional;
mod reading;
mod source;
mod text;

#[cfg(test)]
mod fake_tree;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use cgroup::ControlGroupSampler;
pub use gpu::GpuSampler;
pub use growth::{Pace, SubjectGrowth, Trend, Verdict};
pub use host::{FilesystemSampler, HostSampler};
pub use metric::{Kind, Metric, Scope, Unit, UnknownMetric};
pub use process::{MAX_PROCESSES, ProcessId, ProcessSampler, WatchedProcess};
pub use proportional::ProportionalSampler;
pub use reading::{Gap, Reading, Subject};
pub use source::{HostFacts, Moment, Source, SourceReport, SourceState};

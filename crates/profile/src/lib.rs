//! Profiles: frames, stacks and how far they can be trusted; merging, and rendering for people and other tools.
//!
//! Pure: no I/O, no clock. Types derive no serde; each format owns its wire shapes.
#![forbid(unsafe_code)]

pub mod compare;
mod frame;
mod functions;
mod memory;
mod merge;
mod number;
mod pages;
mod profile;
mod python_quality;
mod quality;
pub mod render;
mod top;
mod tree;
mod utc;
mod view;
mod visible;

pub use frame::{Frame, FrameKind};
pub use merge::PeriodMismatch;
pub use pages::{Measure, PageKind, PageQuality};
pub use profile::{Gil, ProcessLabel, Profile, ProfileBuilder, Stack};
pub use python_quality::PythonQuality;
pub use quality::Quality;
pub use top::{FunctionSamples, PartySamples};
pub use tree::{Node, Tree};
pub use view::View;
pub use visible::visible;

#[cfg(test)]
mod fixtures;

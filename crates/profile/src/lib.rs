//! Profiles: frames, stacks and how far they can be trusted; merging, and rendering for people and other tools.
//!
//! Pure: no I/O, no clock. Types derive no serde; each format owns its wire shapes.

mod frame;
mod profile;
mod quality;

pub use frame::{Frame, FrameKind};
pub use profile::{ProcessLabel, Profile, ProfileBuilder, Stack};
pub use quality::Quality;

//! Raw samples to windows: each sample is resolved against its process at its own time, and equal stacks are counted.

pub mod aggregate;
pub mod codes;
pub mod faults;
pub mod held_file;
pub mod limits;
pub mod mapped;
pub(crate) mod merge;
pub mod moment;
mod python_frames;
pub mod python_tally;
pub mod window;

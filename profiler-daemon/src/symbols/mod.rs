//! Windows to profiles: every address gets its name.
//!
//! In: a [`StackWindow`](crate::stacks::window::StackWindow), whose objects carry open descriptors. Out: a
//! [`Profile`](profiler_profile::Profile). Runs on a thread of its own and may take its time: nothing here is on the
//! path of a sample. Memory is bounded by a configured number of bytes, and objects are read only through
//! the descriptors they came with; debug files and perf maps are opened under the same rules. An object that cannot be read, or not whole, is a [`Limitation`] and keeps nothing else
//! from being named.

mod debug_file;
mod frame_cache;
mod kernel_frames;
mod kernel_names;
mod object_file;
mod object_names;
mod perf_maps;
mod python_names;
#[cfg(test)]
pub(crate) mod tests;
mod window_names;

pub use kernel_names::KernelNamesError;
pub use object_names::Limitation;
pub use window_names::Symbols;

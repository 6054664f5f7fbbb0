//! The one owner of what we know of each process.
//!
//! In: lifecycle records, `/proc`, watch requests. Out: the walker's tables, and for each sample the mapping that held
//! an address at the sample's own time.
//!
//! [`Processes`] is used by one thread and never waits: what takes long or touches a target's files is done by the threads
//! of the builder. Its parts in the order of reading: what a process is ([`process`], `clock`, [`mappings`]), what is mapped
//! ([`objects`], [`unwind`], `tables`, `row_pages`), the owner ([`owner`]) and what is done to it (`lifecycle`, `lifetimes`,
//! `watching`, `retarget`, `restraint`, `entries`, `upkeep`, `delays`, `young`, `sampling`, `listing`, `long_lists`), where
//! facts come from ([`scan`], [`files`], [`discovery`], [`service`], `jobs`, `builder`, `reader`, `row_cache`, `kept_pages`),
//! and for Python what an [`interpreter`] is and who runs one (`python`, [`memory`]).

mod builder;
mod clock;
mod delays;
pub mod discovery;
#[cfg(test)]
pub(crate) mod double;
mod entries;
#[cfg(test)]
pub(crate) mod fake_proc;
pub mod files;
pub(crate) mod interpreter;
mod jobs;
mod kept_pages;
mod lifecycle;
mod lifetimes;
mod listing;
mod long_lists;
pub mod mappings;
pub(crate) mod memory;
pub mod objects;
pub mod owner;
pub mod process;
mod python;
mod reader;
mod restraint;
mod retarget;
mod row_cache;
mod row_pages;
mod sampling;
pub mod scan;
pub mod service;
mod tables;
mod templates;
#[cfg(test)]
mod tests;
pub mod unwind;
mod upkeep;
mod vdso;
mod verification;
pub mod walker_tables;
mod watching;
mod young;

pub use clock::{Clock, Now, uptime};
pub use owner::{Options, Processes, Tallies};
pub use process::{Image, ImageId, StartError};
pub(crate) use python::PythonWalk;
pub use sampling::Stamp;
pub(crate) use vdso::own_vdso;

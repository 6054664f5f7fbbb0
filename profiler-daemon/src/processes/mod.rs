//! The one owner of what we know of each process.
//!
//! In: lifecycle records, `/proc`, watch requests. Out: the walker's tables, and for each sample the mapping that held
//! an address at the sample's own time.

pub mod walker_tables;

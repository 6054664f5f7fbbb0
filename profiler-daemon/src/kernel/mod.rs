//! The only door to the kernel's sampling: probing, loading, attaching, maps and rings.
//!
//! In: rows and mappings of watched processes. Out: [`records::Lifecycle`] records and [`records::RawSample`]s.

pub mod records;

//! The only door to the kernel's sampling: probing, loading, attaching, maps and rings.
//!
//! In: rows and mappings of watched processes ([`KernelTables`]). Out: [`records::Lifecycle`] records and
//! [`records::RawSample`]s ([`Sampler`]). Nothing outside names aya, `perf_event_open` or `bpf`.

mod allocator;
mod btf;
mod lifecycle;
mod load;
mod peer_groups;
mod perf_event;
pub mod records;
mod sampler;
mod sys;
mod tables;

pub use lifecycle::MalformedRecord;
#[cfg(feature = "fuzzing")]
pub(crate) use lifecycle::parse as parse_lifecycle;
pub use load::{LoadError, WalkerLoop, kernel_release};
pub use peer_groups::peer_groups;
#[cfg(feature = "fuzzing")]
pub(crate) use sampler::decode as decode_sample;
pub use sampler::{KernelCost, SampleBatch, Sampler, SamplerOptions, SamplingCounts};
pub use tables::KernelTables;

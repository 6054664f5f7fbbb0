//! The only door to the kernel's sampling: probing, loading, attaching, maps and rings.
//!
//! In: rows and mappings of watched processes ([`KernelTables`]). Out: [`records::Lifecycle`] records and
//! [`records::RawSample`]s ([`Sampler`]). Nothing outside names aya, `perf_event_open` or `bpf`.

mod allocator;
mod btf;
mod cost;
mod cpus;
mod descriptors;
mod faults;
mod heap;
mod lifecycle;
mod load;
mod mapped;
mod offsets;
mod pagemap;
mod peer_groups;
mod perf_event;
mod python_layouts;
pub mod records;
mod refusal;
mod sample_rings;
mod sampler;
mod shards;
mod sys;
mod tables;
mod templates;

pub use cost::{CostReader, KernelCost, possible_cpus};
pub use descriptors::close_descriptors_at_exec;
#[cfg(feature = "fuzzing")]
pub(crate) use faults::decode as decode_fault;
pub use faults::{FaultBatch, FaultCounts, OomKill};
pub use heap::{bound_heap, give_back_memory};
pub use lifecycle::MalformedRecord;
#[cfg(feature = "fuzzing")]
pub(crate) use lifecycle::parse as parse_lifecycle;
pub use load::{LoadError, WalkerLoop, host_name, kernel_release};
#[cfg(feature = "fuzzing")]
pub(crate) use mapped::decode as decode_mapped;
pub use mapped::{MappedCounts, MappedRefused};
pub use pagemap::{PageState, Pagemap, PagemapError};
pub use peer_groups::peer_groups;
pub use sample_rings::SampleBatch;
#[cfg(feature = "fuzzing")]
pub(crate) use sample_rings::decode as decode_sample;
pub use sampler::{Sampler, SamplerOptions, SamplingCounts};
pub use tables::KernelTables;

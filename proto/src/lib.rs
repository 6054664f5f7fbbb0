//! The gRPC contract between the daemon and its clients.
//!
//! Everything here is generated from `proto/profiler/v1/*.proto` by the binary `generate` of this crate and committed, so
//! that a build needs neither protoc nor a generator:
//!
//! ```text
//! cargo run -p profiler-proto --features generate --bin generate            # writes src/generated
//! cargo run -p profiler-proto --features generate --bin generate -- --check # only compares
//! ```
#![forbid(unsafe_code)]

/// Messages, clients and servers of the package `profiler.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    clippy::wildcard_imports,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its sources are the .proto files"
)]
pub mod v1 {
    include!("generated/profiler.v1.rs");
}

/// The encoded `google.protobuf.FileDescriptorSet` of `profiler.v1` and of the files it imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

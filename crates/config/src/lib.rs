//! Configuration: what was written, and what is meant by it.
//!
//! In: the text of configuration files, environment variables and flags, each with where it comes from. Out: one
//! [`Config`] in which every value is typed and in range, or every mistake with its file and line.
//! Everything but [`read_default_files`] and [`read_file`] is pure.

#![forbid(unsafe_code)]

mod error;
mod gpu;
mod host;
mod limits;
mod meant;
mod names;
mod pattern;
mod read;
mod service;
mod sinks;
mod sources;
mod tcp;
mod values;
mod written;

pub use error::{ConfigError, ConfigErrors, Origin};
pub use gpu::Gpu;
pub use host::{MAX_PERF_EVENT_PARANOID, OLDEST_KERNEL};
pub use meant::{
    Alerts, Api, Budget, Config, LimitRule, Log, LogFormat, LogLevel, Sampling, Store, Symbols, Targets, Tcp, Walker,
    WalkerLoop,
};
pub use pattern::{InvalidPattern, Pattern};
pub use read::{DEFAULT_DIRECTORY, ReadError, read_default_files, read_file};
pub use service::{NamedService, ProcessFacts};
pub use sinks::{Endpoint, Sink, SinkTarget};
pub use sources::{Setting, SourceFile, Sources};

//! One measured value.

use std::{fmt, sync::Arc, time::SystemTime};

use crate::{Metric, Scope};

/// Whom a reading is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The host as a whole.
    Host,
    /// One CPU of the host, by its number.
    Core(u32),
    /// A block device, by the kernel's name.
    Disk(Arc<str>),
    /// A network interface.
    Network(Arc<str>),
    /// A mounted file system, by its mount point.
    Filesystem(Arc<str>),
    /// A service: the processes that carry its name.
    Service(Arc<str>),
    /// A process. Its start time, in clock ticks since boot, tells it from a later one with the same id.
    Process {
        /// Its id in the namespace of the daemon.
        pid: u32,
        /// Field 22 of `/proc/PID/stat`.
        start_ticks: u64,
    },
    /// A control group, by its path below the hierarchy's root.
    ControlGroup(Arc<str>),
    /// A GPU or an instance of one, by its UUID.
    Gpu(Arc<str>),
}

impl Subject {
    /// The kind of subject.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Host => Scope::Host,
            Self::Core(_) => Scope::Core,
            Self::Disk(_) => Scope::Disk,
            Self::Network(_) => Scope::Network,
            Self::Filesystem(_) => Scope::Filesystem,
            Self::Service(_) => Scope::Service,
            Self::Process { .. } => Scope::Process,
            Self::ControlGroup(_) => Scope::ControlGroup,
            Self::Gpu(_) => Scope::Gpu,
        }
    }
}

impl fmt::Display for Subject {
    /// The name without its scope; empty for the host. Not escaped: names of others go through the escaping of the place
    /// where they are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => Ok(()),
            Self::Core(number) => write!(f, "{number}"),
            Self::Process { pid, .. } => write!(f, "{pid}"),
            Self::Disk(name)
            | Self::Network(name)
            | Self::Filesystem(name)
            | Self::Service(name)
            | Self::ControlGroup(name)
            | Self::Gpu(name) => f.write_str(name),
        }
    }
}

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What was measured.
    pub metric: Metric,
    /// Of whom.
    pub subject: Subject,
    /// In the unit of the metric; a counter counts since its source began.
    pub value: f64,
    /// When it was read.
    pub time: SystemTime,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// This host cannot measure it: no such device, file or library. It does not come back by waiting.
    Unsupported,
    /// It was measured before, or should be, and could not be read now.
    NoData,
}

//! What the sampling loop says of exact stacks of calls for memory.

use std::collections::BTreeMap;

use crate::kernel::{MappedCounts, records::Pid};

/// Why the calls of a process are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappedError {
    /// Those of a process are already.
    #[error("exact stacks are being taken of process {pid}, and only of one process at a time")]
    Taken {
        /// The process.
        pid: Pid,
    },
    /// It is not possible on this host, or of this process.
    #[error("exact stacks cannot be taken: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// What was taken since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedStatus {
    /// What the program has done, and what it cost.
    pub counts: MappedCounts,
    /// Calls that were delivered and lost before they were named, by reason.
    pub lost: BTreeMap<String, u64>,
}

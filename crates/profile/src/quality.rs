//! How far a profile can be trusted.

use std::collections::BTreeMap;

/// How far a profile can be trusted: what was lost, and which stacks are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Samples in the profile.
    pub samples: u64,
    /// Samples whose user stack reached a proven root, or that have no user part.
    pub rooted: u64,
    /// Samples by the reason for which their user stack stopped short of a proven root.
    pub stopped: BTreeMap<String, u64>,
    /// Samples known to be lost in the same time, by reason; for the whole host.
    pub lost: BTreeMap<String, u64>,
    /// User frames in the profile's samples.
    pub user_frames: u64,
    /// Those of them with a name.
    pub named_user_frames: u64,
}

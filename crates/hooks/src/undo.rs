//! Settings that a hook changed, written down before they are changed, and put back where they are still ours.

use std::sync::Arc;

use profiler_readings::Moment;

use crate::Identity;

/// A setting that may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Knob {
    /// The niceness of a thread.
    Nice,
    /// The priority of a thread at the disk.
    IoPriority,
    /// The CPUs of a thread.
    Affinity,
    /// The memory at which a control group is slowed down.
    MemoryHigh,
    /// The part of the CPU that a control group gets when others want it too.
    CpuWeight,
    /// The CPU time that a control group may have.
    CpuMax,
}

impl Knob {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Nice,
        Self::IoPriority,
        Self::Affinity,
        Self::MemoryHigh,
        Self::CpuWeight,
        Self::CpuMax,
    ];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nice => "nice",
            Self::IoPriority => "io_priority",
            Self::Affinity => "affinity",
            Self::MemoryHigh => "memory_high",
            Self::CpuWeight => "cpu_weight",
            Self::CpuMax => "cpu_max",
        }
    }
}

/// Whose setting it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A thread's: niceness, priority and CPUs are each thread's own.
    Thread {
        /// Its process.
        process: Identity,
        /// The thread, which may be the first one of the process.
        thread: Identity,
    },
    /// A control group's.
    Group {
        /// The number of its directory.
        id: u64,
        /// Its path below the hierarchy's root.
        path: Arc<str>,
    },
}

/// One setting that is changed, in the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub place: Place,
    /// Which.
    pub knob: Knob,
    /// What it was.
    pub before: String,
    /// What we set it to, as it reads afterwards.
    pub ours: String,
}

/// What is to be done to a setting to put it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reversal {
    /// Write what was there before.
    Restore,
    /// Leave it: it is as it was before.
    IsBefore,
    /// Leave it: somebody else has set it since.
    IsOthers,
    /// Whoever had it is no more.
    IsGone,
}

impl Change {
    /// What is to be done where the setting now reads so; none where whoever had it is no more, or has another identity.
    pub fn reversal(&self, now: Option<&str>) -> Reversal {
        match now {
            None => Reversal::IsGone,
            Some(value) if value == self.ours => Reversal::Restore,
            Some(value) if value == self.before => Reversal::IsBefore,
            Some(_) => Reversal::IsOthers,
        }
    }
}

/// Why settings are put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UndoReason {
    /// Their time is over.
    Expired,
    /// The readings are worse with them.
    Worse,
    /// Not all could be changed, or nobody knows.
    Failed,
    /// The daemon stopped, or was stopped.
    Stopped,
    /// The host was started again, which put all of them back.
    Rebooted,
}

impl UndoReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Expired, Self::Worse, Self::Failed, Self::Stopped, Self::Rebooted];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Worse => "worse",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Rebooted => "rebooted",
        }
    }
}

/// How many settings were put back, and why others were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    /// Those that were, or that were already as before.
    pub restored: u32,
    /// Those that somebody else had set since.
    pub others: u32,
    /// Those of whom is no more.
    pub gone: u32,
}

/// Where the settings that a run changed are on their way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// None were changed.
    Nothing,
    /// They are written down, and changed or about to be.
    Held {
        /// When they are put back at the latest.
        until: Moment,
    },
    /// They are being put back.
    Underway {
        /// Why.
        reason: UndoReason,
        /// Attempts so far.
        attempts: u32,
    },
    /// They are as they were, or no longer ours.
    Done {
        /// Why.
        reason: UndoReason,
        /// What came of it.
        put_back: PutBack,
    },
}

impl Undo {
    /// Whether settings may still be changed.
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Held { .. } | Self::Underway { .. })
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Held { .. } => "held",
            Self::Underway { .. } => "underway",
            Self::Done { .. } => "done",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_put_back_only_where_it_is_still_ours() {
        let change = Change {
            place: Place::Group {
                id: 7,
                path: "/system.slice/web.service".into(),
            },
            knob: Knob::CpuWeight,
            before: "100".to_owned(),
            ours: "50".to_owned(),
        };
        for (now, expected) in [
            (Some("50"), Reversal::Restore),
            (Some("100"), Reversal::IsBefore),
            (Some("60"), Reversal::IsOthers),
            (Some(""), Reversal::IsOthers),
            (None, Reversal::IsGone),
        ] {
            assert_eq!(change.reversal(now), expected, "{now:?}");
        }
    }
}

//! How far a run goes, what it is at, and how it ends.

use crate::Refusal;

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Whom it would act on is recorded.
    Observe,
    /// It is prepared, to see what would be done, and not done.
    DryRun,
    /// It is done.
    Enforce,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Observe, Self::DryRun, Self::Enforce];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::DryRun => "dry_run",
            Self::Enforce => "enforce",
        }
    }
}

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// It waits for its turn.
    Proposed,
    /// A target is looked for.
    Guard,
    /// What is, before anything is done, is noted.
    Before,
    /// The target is looked at again, and what will be changed is read.
    Prepare,
    /// It is done.
    Apply,
    /// What was done has its effect.
    Settle,
    /// What is, afterwards, is noted.
    After,
    /// It is over.
    Ended,
    /// Settings are put back, once it is over.
    Undo,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Proposed,
        Self::Guard,
        Self::Before,
        Self::Prepare,
        Self::Apply,
        Self::Settle,
        Self::After,
        Self::Ended,
        Self::Undo,
    ];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Guard => "guard",
            Self::Before => "before",
            Self::Prepare => "prepare",
            Self::Apply => "apply",
            Self::Settle => "settle",
            Self::After => "after",
            Self::Ended => "ended",
            Self::Undo => "undo",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done, because it was not to be.
    Refused(Refusal),
    /// Nothing was done, because the hook only observes.
    Observed,
    /// Nothing was done, because only what would be was asked for.
    DryRun,
    /// It was done, and is left so; settings until their time is over.
    Kept,
    /// It was done, the readings are worse, and it is undone.
    Undone,
    /// It could not be done.
    Failed {
        /// At what.
        during: Stage,
        /// Why.
        reason: String,
    },
    /// It took too long.
    TimedOut {
        /// At what.
        during: Stage,
    },
    /// The target ended.
    Gone {
        /// At what.
        during: Stage,
    },
    /// The daemon stopped.
    Interrupted {
        /// At what.
        during: Stage,
    },
}

impl Outcome {
    /// Its name in JSON and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Observed => "observed",
            Self::DryRun => "dry_run",
            Self::Kept => "kept",
            Self::Undone => "undone",
            Self::Failed { .. } => "failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Gone { .. } => "gone",
            Self::Interrupted { .. } => "interrupted",
        }
    }
}

/// Where a run is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes on.
    At(Stage),
    /// It is over.
    Over(Outcome),
}

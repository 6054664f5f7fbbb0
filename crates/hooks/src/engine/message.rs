//! What goes out of the engine, and what comes back.

use std::{sync::Arc, time::Duration};

use profiler_readings::Subject;

use crate::{Candidate, Change, Hook, PutBack, Run, RunId, Snapshot, Target, TargetId, Watched};

/// What is to be done. Orders of one run are carried out one after the other, in the order in which they were given, and an
/// order only when the run before it is kept where it outlives the daemon: if it cannot be, the order is not carried out but
/// answered with [`Answer::NotKept`]. What withdraws and what puts back is always carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Keep a run as it is now; no answer.
    Keep(Box<Run>),
    /// Look who contributed to a reading: [`Answer::Candidates`].
    Choose {
        /// For which run.
        run: RunId,
        /// Of which hook.
        hook: Arc<Hook>,
        /// Whom it is about.
        about: Subject,
        /// What is read, if anything is.
        watched: Option<Watched>,
    },
    /// Note what is, before anything is done: [`Answer::Before`].
    LookBefore {
        /// For which run.
        run: RunId,
        /// Of whom.
        target: TargetId,
        /// Which reading.
        watched: Option<Watched>,
        /// Over how long a time until now.
        span: Duration,
    },
    /// Get hold of the target (by a descriptor that stays its own, where it is a process), look at it again, and read what
    /// will be changed, without changing it: [`Answer::Prepared`].
    Prepare {
        /// For which run.
        run: RunId,
        /// Of which hook.
        hook: Arc<Hook>,
        /// The target.
        target: TargetId,
    },
    /// Do what was prepared, to the target that is held: [`Answer::Applied`].
    Apply {
        /// For which run.
        run: RunId,
        /// For how long it may take.
        timeout: Duration,
    },
    /// End what was begun and not answered, and let go of the target; no answer. Nothing more may be done for the run
    /// afterwards but to put back.
    Withdraw {
        /// Of which run.
        run: RunId,
    },
    /// Note what is, afterwards: [`Answer::After`].
    LookAfter {
        /// For which run.
        run: RunId,
        /// Of whom.
        target: TargetId,
        /// Which reading.
        watched: Option<Watched>,
        /// Over how long a time until now.
        span: Duration,
    },
    /// Put settings back, each by [`Change::reversal`]: [`Answer::PutBack`]. It may be ordered again.
    PutBack {
        /// Of which run.
        run: RunId,
        /// Which.
        changes: Vec<Change>,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Who contributed.
    Candidates(Vec<Candidate>),
    /// What was, before.
    Before(Snapshot),
    /// The target as it is now, and what would be done.
    Prepared {
        /// The target, looked at after it was got hold of.
        target: Target,
        /// Settings that will be changed.
        changes: Vec<Change>,
        /// What will be done, in words; neither arguments nor environment of a target.
        would: String,
    },
    /// It was done.
    Applied {
        /// What whoever did it says.
        said: String,
    },
    /// What is, afterwards.
    After(Snapshot),
    /// Settings are as they were, or no longer ours.
    PutBack(PutBack),
    /// It could not be done; of settings, not all.
    Failed {
        /// Why.
        reason: String,
    },
    /// The target is no more.
    Gone,
    /// The run could not be kept, so that nothing was done.
    NotKept {
        /// Why.
        reason: String,
    },
}

impl Order {
    /// Which run it is for.
    pub fn run(&self) -> RunId {
        match self {
            Self::Keep(run) => run.id,
            Self::Choose { run, .. }
            | Self::LookBefore { run, .. }
            | Self::Prepare { run, .. }
            | Self::Apply { run, .. }
            | Self::Withdraw { run }
            | Self::LookAfter { run, .. }
            | Self::PutBack { run, .. } => *run,
        }
    }
}

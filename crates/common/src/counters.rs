//! What the CPU program counts, per CPU. Each run of the program increments [`Counter::Runs`] and exactly one of the
//! outcomes.

/// Index into the per-CPU array of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// The program was called.
    Runs = 0,
    /// The CPU was idle.
    Idle = 1,
    /// The process is not watched.
    NotWatched = 2,
    /// The sample was written to a ring.
    Delivered = 3,
    /// Lost: the ring was full.
    RingFull = 4,
    /// Lost: the program's state was in use on this CPU.
    Busy = 5,
    /// Lost: a map that must exist did not.
    Internal = 6,
    /// Not an outcome: nanoseconds from the start of a sample of a watched process until its record was written.
    SampleNanoseconds = 7,
    /// Not an outcome: frames in those records, user and kernel.
    SampleFrames = 8,
    /// Not an outcome: entries of processes that found no room at a fork or an exec.
    EntryRefused = 9,
    /// Not an outcome: nanoseconds of walks of Python stacks; a part of the samples'.
    PythonNanoseconds = 10,
    /// Not an outcome: Python frames found by them.
    PythonFrames = 11,
}

impl Counter {
    /// Every counter, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Runs,
        Self::Idle,
        Self::NotWatched,
        Self::Delivered,
        Self::RingFull,
        Self::Busy,
        Self::Internal,
        Self::SampleNanoseconds,
        Self::SampleFrames,
        Self::EntryRefused,
        Self::PythonNanoseconds,
        Self::PythonFrames,
    ];

    /// The counter in words of the command line and of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Idle => "idle",
            Self::NotWatched => "not_watched",
            Self::Delivered => "delivered",
            Self::RingFull => "ring_full",
            Self::Busy => "busy",
            Self::Internal => "internal",
            Self::SampleNanoseconds => "sample_nanoseconds",
            Self::SampleFrames => "sample_frames",
            Self::EntryRefused => "entry_refused",
            Self::PythonNanoseconds => "python_nanoseconds",
            Self::PythonFrames => "python_frames",
        }
    }

    /// Whether the count is of what became of a run: each run has exactly one outcome.
    pub const fn is_outcome(self) -> bool {
        !matches!(
            self,
            Self::Runs
                | Self::SampleNanoseconds
                | Self::SampleFrames
                | Self::EntryRefused
                | Self::PythonNanoseconds
                | Self::PythonFrames
        )
    }

    /// Whether the count is of samples of watched processes that were lost.
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::RingFull | Self::Busy | Self::Internal)
    }
}

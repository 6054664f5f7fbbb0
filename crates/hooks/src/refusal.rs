//! Why a hook does nothing.

use std::time::Duration;

use profiler_alerts::span_in_words;

/// Why a hook does not run, or not on somebody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no hook of this name.
    #[error("there is no such hook")]
    UnknownHook,
    /// It was already proposed for this alert.
    #[error("it has had its turn for this alert")]
    AlreadyProposed,
    /// More alerts that are not over were proposed than can be remembered.
    #[error("too many alerts with hooks have not ended")]
    TooManyAlerts,
    /// Too many runs wait for their turn.
    #[error("too many runs wait for their turn")]
    TooManyWait,
    /// It waited for its turn for too long.
    #[error("its turn came too late")]
    WaitedTooLong,
    /// The alert ended before anything was done.
    #[error("the alert ended first")]
    AlertOver,
    /// Hooks are paused.
    #[error("hooks are paused: {by}")]
    Paused {
        /// By whom or by what.
        by: String,
    },
    /// The hook was changed or switched off before it did anything.
    #[error("the hook was changed or switched off in the meantime")]
    Changed,
    /// As many runs as there may be have run.
    #[error("too many runs: the next may begin in {}", span_in_words(whole_seconds(*.wait)))]
    RateLimited {
        /// Time until one may begin.
        wait: Duration,
    },
    /// The hook has failed lately.
    #[error("it has failed {failures} times in a row: it may run again in {}", span_in_words(whole_seconds(*.wait)))]
    BackedOff {
        /// Failures in a row.
        failures: u32,
        /// Time until it may run.
        wait: Duration,
    },
    /// It ran on this target lately.
    #[error("it ran on this target lately: it may again in {}", span_in_words(whole_seconds(*.wait)))]
    CoolingDown {
        /// Time until it may.
        wait: Duration,
    },
    /// More settings are changed than can be put back with certainty.
    #[error("too many settings are changed at a time")]
    TooManyChanges,
    /// A setting of this target is changed already.
    #[error("a setting of this target is still changed by an earlier run")]
    StillChanged,
    /// All is set as it would be.
    #[error("there is nothing to change: all is set so already")]
    NothingToChange,
    /// There is nobody to act on.
    #[error("there is nobody to act on")]
    Nobody,
    /// All that are allowed contribute too little for it to matter.
    #[error("nobody whom it may act on contributes enough to matter")]
    TooSmall,
    /// The target is of another kind than the hook acts on.
    #[error("it does not act on targets of this kind")]
    WrongKind,
    /// The target is the first process.
    #[error("the target is the first process")]
    FirstProcess,
    /// The target is a thread of the kernel.
    #[error("the target is a thread of the kernel")]
    KernelThread,
    /// The target is the daemon, a part of it, or one of its ancestors.
    #[error("the target is the profiler or one of its ancestors")]
    Ourselves,
    /// The target keeps the host running or reachable.
    #[error("the target belongs to what keeps the host running and reachable")]
    Protected,
    /// The program of the target is not known.
    #[error("the program of the target is not known")]
    UnknownProgram,
    /// The hook does not say whom it may act on.
    #[error("the hook does not say whom it may act on")]
    NoAllowList,
    /// The unit of the target is not among those allowed.
    #[error("the unit of the target is not allowed")]
    UnitNotAllowed,
    /// The executable of the target is not among those allowed.
    #[error("the executable of the target is not allowed")]
    ExecutableNotAllowed,
    /// A user of the target is not among those allowed.
    #[error("user {uid} of the target is not allowed")]
    UserNotAllowed {
        /// Which.
        uid: u32,
    },
    /// The signal would do more than to ask.
    #[error("the signal is none that asks a program for something")]
    SignalNotAllowed,
    /// The signal would end the target.
    #[error("the target does not catch the signal and would end by it")]
    SignalNotCaught,
    /// The control group holds more than one service.
    #[error("the control group is wider than a service")]
    GroupTooWide,
    /// Not all processes of the control group are known.
    #[error("not all processes of the control group are known")]
    GroupNotWhole,
    /// The target is another than the one that was chosen.
    #[error("the target is another than the one that was chosen: its id was used again")]
    Reused,
}

/// Times are told in whole seconds, rounded up.
fn whole_seconds(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs() + u64::from(span.subsec_nanos() > 0))
}

impl Refusal {
    /// Those that say nothing but their names.
    pub const PLAIN: [Self; 26] = [
        Self::UnknownHook,
        Self::AlreadyProposed,
        Self::TooManyAlerts,
        Self::TooManyWait,
        Self::WaitedTooLong,
        Self::AlertOver,
        Self::Changed,
        Self::TooManyChanges,
        Self::StillChanged,
        Self::NothingToChange,
        Self::Nobody,
        Self::TooSmall,
        Self::WrongKind,
        Self::FirstProcess,
        Self::KernelThread,
        Self::Ourselves,
        Self::Protected,
        Self::UnknownProgram,
        Self::NoAllowList,
        Self::UnitNotAllowed,
        Self::ExecutableNotAllowed,
        Self::SignalNotAllowed,
        Self::SignalNotCaught,
        Self::GroupTooWide,
        Self::GroupNotWhole,
        Self::Reused,
    ];

    /// Its name in JSON and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnknownHook => "unknown_hook",
            Self::AlreadyProposed => "already_proposed",
            Self::TooManyAlerts => "too_many_alerts",
            Self::TooManyWait => "too_many_wait",
            Self::WaitedTooLong => "waited_too_long",
            Self::AlertOver => "alert_over",
            Self::Paused { .. } => "paused",
            Self::Changed => "changed",
            Self::RateLimited { .. } => "rate_limited",
            Self::BackedOff { .. } => "backed_off",
            Self::CoolingDown { .. } => "cooling_down",
            Self::TooManyChanges => "too_many_changes",
            Self::StillChanged => "still_changed",
            Self::NothingToChange => "nothing_to_change",
            Self::Nobody => "nobody",
            Self::TooSmall => "too_small",
            Self::WrongKind => "wrong_kind",
            Self::FirstProcess => "first_process",
            Self::KernelThread => "kernel_thread",
            Self::Ourselves => "ourselves",
            Self::Protected => "protected",
            Self::UnknownProgram => "unknown_program",
            Self::NoAllowList => "no_allow_list",
            Self::UnitNotAllowed => "unit_not_allowed",
            Self::ExecutableNotAllowed => "executable_not_allowed",
            Self::UserNotAllowed { .. } => "user_not_allowed",
            Self::SignalNotAllowed => "signal_not_allowed",
            Self::SignalNotCaught => "signal_not_caught",
            Self::GroupTooWide => "group_too_wide",
            Self::GroupNotWhole => "group_not_whole",
            Self::Reused => "reused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        let refusal = Refusal::BackedOff {
            failures: 2,
            wait: Duration::from_millis(59_001),
        };
        assert_eq!(
            refusal.to_string(),
            "it has failed 2 times in a row: it may run again in 1 min"
        );
        assert_eq!(refusal.name(), "backed_off");
        let limited = Refusal::RateLimited { wait: Duration::ZERO };
        assert_eq!(limited.to_string(), "too many runs: the next may begin in 0 ms");
    }
}

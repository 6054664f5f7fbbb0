//! Every error of the API and the gRPC code that it becomes. The only place that knows codes.

use std::time::Duration;

use profiler_alerts::InvalidSilence;
use profiler_profile::PeriodMismatch;
use profiler_profile::render::RenderError;
use profiler_store::state::StateError;
use tonic::{Code, Status};

use super::{access::AccessDenied, convert::InvalidRequest};
use crate::{
    alerting::{AlertingError, SilenceError},
    census::CensusError,
    command::{EngineError, FlushError, MappedError, ProcessError, WatchError},
    kernel::records::Pid,
    memory::MemoryError,
    sinks::TestError,
};

/// Longest message of an error. What callers and processes wrote may be in it.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    #[error(transparent)]
    Access(#[from] AccessDenied),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// A stream has taken calls for memory for as long as it may.
    #[error("exact stacks are taken for {} s at most", limit.as_secs())]
    MappingsTooLong { limit: Duration },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    #[error(transparent)]
    Alerting(#[from] AlertingError),
    #[error(transparent)]
    Silence(#[from] SilenceError),
    /// What is kept of alerts cannot be read.
    #[error("alerts cannot be read: {0}")]
    State(#[from] StateError),
    #[error(transparent)]
    Census(#[from] CensusError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What grows memory is not known here.
    #[error("what makes memory grow is not recorded: {reason}")]
    NoMemoryProfile { reason: String },
    #[error(transparent)]
    Sink(#[from] TestError),
    /// There is no such alert, or it is not kept any more.
    #[error("there is no alert {id}")]
    NoSuchAlert { id: String },
    /// There is no such silence, or it has ended.
    #[error("there is no silence {id}")]
    NoSuchSilence { id: u64 },
    /// Nothing is known of a service.
    #[error("no process of the service \"{service}\" is watched, and none was in the time that is kept")]
    NoSuchService { service: String },
    /// A process exists and has no samples because it is not watched.
    #[error("process {pid} is not watched ({reason}): ask for a watch first")]
    NotWatched { pid: Pid, reason: String },
    /// A format that cannot be empty was asked for.
    #[error("there are no samples in this time")]
    NoSamples,
    /// As many of something are in progress as may be.
    #[error("{limit} {what} are in progress, as many as may be at one time")]
    TooMany { what: &'static str, limit: usize },
    /// The answer does not fit into a message.
    #[error("the profile takes {bytes} bytes, and a message at most {limit}: ask for a shorter time")]
    TooLarge { bytes: usize, limit: usize },
    /// The readings do not fit into a message.
    #[error(
        "{found} {what} are asked for, and an answer has at most {limit}: name metrics or subjects, or a longer step"
    )]
    TooManyReadings { found: u64, what: &'static str, limit: u64 },
    /// Clients do not read what they asked for.
    #[error("answers of more than {limit} bytes wait to be read by those who asked for them: try again when they have")]
    Unread { limit: usize },
    /// Somebody else took too long.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Slow { what: &'static str, limit: Duration },
    /// The sampling rate changed within the span.
    #[error("the time spans two sampling rates: {0}")]
    Periods(#[from] PeriodMismatch),
    #[error("the profile cannot be rendered: {0}")]
    Render(#[from] RenderError),
    /// The daemon ends.
    #[error("the daemon is stopping")]
    Stopping,
    /// A fault of ours.
    #[error("internal error: {what}")]
    Internal { what: String },
}

impl ApiError {
    fn code(&self) -> Code {
        match self {
            Self::Request(_) => Code::InvalidArgument,
            Self::Access(_) => Code::PermissionDenied,
            Self::Watch(error) => match error {
                WatchError::NoSuchProcess { .. } => Code::NotFound,
                WatchError::KernelThread { .. } | WatchError::Compat32 { .. } => Code::InvalidArgument,
                // It is the daemon that lacks a permission, not the caller.
                WatchError::PermissionDenied { .. } | WatchError::OwnProcess { .. } => Code::FailedPrecondition,
                WatchError::Unsupported { .. } => Code::Unavailable,
                WatchError::TooManyProcesses { .. } => Code::ResourceExhausted,
            },
            Self::Process(ProcessError::NoSuchProcess { .. })
            | Self::NoSuchService { .. }
            | Self::NoSamples
            | Self::NoSuchAlert { .. }
            | Self::NoSuchSilence { .. }
            | Self::Sink(TestError::Unknown { .. }) => Code::NotFound,
            Self::Census(error) => match error {
                CensusError::NoSuchProcess { .. } => Code::NotFound,
                CensusError::NotPython { .. }
                | CensusError::Refused { .. }
                | CensusError::NoPools { .. }
                | CensusError::Padded { .. }
                | CensusError::Unreadable { .. }
                | CensusError::Hung { .. } => Code::FailedPrecondition,
                CensusError::Ended { .. } | CensusError::Unwanted => Code::Aborted,
                CensusError::Busy | CensusError::Stuck { .. } => Code::ResourceExhausted,
                CensusError::Late { .. } => Code::DeadlineExceeded,
                CensusError::Stopping => Code::Unavailable,
            },
            Self::Silence(SilenceError::Invalid(InvalidSilence::TooMany)) => Code::ResourceExhausted,
            Self::Silence(SilenceError::Invalid(_)) => Code::InvalidArgument,
            Self::Sink(TestError::Delivery(_))
            | Self::Silence(SilenceError::State(_))
            | Self::State(_)
            | Self::Alerting(_) => Code::Unavailable,
            Self::Process(ProcessError::PermissionDenied { .. }) | Self::NotWatched { .. } | Self::Periods(_) => {
                Code::FailedPrecondition
            }
            Self::Memory(MemoryError::Busy) | Self::Mapped(MappedError::Taken { .. }) => Code::ResourceExhausted,
            Self::NoMemoryProfile { .. } | Self::Mapped(MappedError::Refused { .. }) => Code::FailedPrecondition,
            Self::Engine(_) | Self::Flush(_) | Self::Stopping | Self::Memory(MemoryError::Ended) => Code::Unavailable,
            Self::TooMany { .. } | Self::TooLarge { .. } | Self::TooManyReadings { .. } | Self::Unread { .. } => {
                Code::ResourceExhausted
            }
            Self::Slow { .. } | Self::MappingsTooLong { .. } | Self::Memory(MemoryError::Late { .. }) => {
                Code::DeadlineExceeded
            }
            Self::Render(_) | Self::Internal { .. } => Code::Internal,
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let code = error.code();
        if code == Code::Internal {
            tracing::error!(%error, "a request failed");
        }
        Self::new(code, profiler_profile::visible(&error.to_string(), MAX_MESSAGE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn each_error_of_a_watch_has_its_code_and_a_clear_line() {
        let pid = Pid(7);
        for (error, code, message) in [
            (
                WatchError::NoSuchProcess { pid },
                Code::NotFound,
                "there is no process 7",
            ),
            (
                WatchError::KernelThread { pid },
                Code::InvalidArgument,
                "process 7 is a kernel thread: it has no user code to profile",
            ),
            (
                WatchError::Compat32 { pid },
                Code::InvalidArgument,
                "process 7 is a 32-bit program; only 64-bit programs can be profiled",
            ),
            (
                WatchError::PermissionDenied {
                    pid,
                    path: PathBuf::from("/proc/7/maps\n\x1b[31m"),
                    reason: "EACCES".to_owned(),
                },
                Code::FailedPrecondition,
                "process 7 cannot be watched: the daemon may not read /proc/7/maps\\n\\u{1b}[31m: EACCES",
            ),
            (
                WatchError::Unsupported {
                    reason: "no BTF".to_owned(),
                },
                Code::Unavailable,
                "sampling is not possible: no BTF",
            ),
            (
                WatchError::TooManyProcesses { limit: 5 },
                Code::ResourceExhausted,
                "5 processes are watched already, as many as targets.max_processes allows",
            ),
            (
                WatchError::OwnProcess { pid },
                Code::FailedPrecondition,
                "process 7 is the profiler itself; targets.watch_self allows to watch it",
            ),
        ] {
            let status = Status::from(ApiError::from(error));
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let status = Status::from(ApiError::NoSuchService {
            service: "x".repeat(100_000),
        });
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_full_queue_and_a_dead_loop_are_unavailable() {
        for error in [EngineError::Busy, EngineError::Ended] {
            assert_eq!(Status::from(ApiError::from(error)).code(), Code::Unavailable);
        }
    }
}

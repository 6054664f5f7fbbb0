//! What can go wrong, in the words that the user reads, and with which exit code.

use std::{error::Error, io, path::PathBuf};

use crate::{client::ClientError, convert::ProfileError};

/// Exit code of any failure without a code of its own.
pub(crate) const FAILURE: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The profile asked for is empty, or there are no readings.
pub(crate) const NO_SAMPLES: u8 = 3;
/// The caller may not do this.
pub(crate) const NO_PERMISSION: u8 = 4;
/// Ended by Ctrl-C, as a shell reports it.
const INTERRUPTED: u8 = 130;

/// Why a command ended without its result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The arguments contradict each other or the clock.
    #[error("{message}")]
    Usage {
        /// What is wrong with them.
        message: String,
    },
    /// No watched process belongs to the service.
    #[error("no watched process belongs to the service {service:?}; {known}")]
    NoSuchService {
        /// The name asked for.
        service: String,
        /// The names that exist, as a clause.
        known: String,
    },
    /// Nothing is kept of a process, because it is not watched.
    #[error("nothing is kept of {target}: it is not watched ({reason}); --duration 10s records it from now on")]
    NotWatched {
        /// The process.
        target: String,
        /// The daemon's words.
        reason: String,
    },
    /// Nothing was sampled.
    #[error("no samples of {target}: {hint}")]
    NoSamples {
        /// What was asked for.
        target: String,
        /// What that means, and what can be done.
        hint: String,
    },
    /// Nothing was read.
    #[error("no readings{of} in this time; `profiler-cli status` says how reading does")]
    NoReadings {
        /// Of whom, as a clause.
        of: String,
    },
    /// There is nothing to compare with.
    #[error(
        "the daemon kept no census of process {pid} to compare with; this one is kept now: ask again later, or use --watch 30s"
    )]
    NoEarlierCensus {
        /// The process.
        pid: u32,
    },
    /// The daemon sent a profile that cannot be right.
    #[error("the daemon sent a profile that is not valid: {0}")]
    Profile(#[from] ProfileError),
    /// The profile could not be rendered.
    #[error("cannot render the profile as {format}: {source}")]
    Render {
        /// Name of the format.
        format: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Stdout could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// A report could not be encoded.
    #[error("cannot encode the report: {0}")]
    Encode(#[from] serde_json::Error),
    /// The daemon sent a configuration that is no TOML.
    #[error("the daemon sent a configuration that is not valid: {0}")]
    Config(#[from] toml::de::Error),
    /// The second Ctrl-C, or the first one while nothing is recorded.
    #[error("interrupted")]
    Interrupted,
    /// The runtime could not be started.
    #[error("cannot start: {source}")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

impl CliError {
    /// The line to show, unless nobody wants to hear of it.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Interrupted => None,
            _ if self.is_closed_pipe() => None,
            _ => Some(self.to_string()),
        }
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_closed_pipe() => 0,
            Self::Interrupted => INTERRUPTED,
            Self::Usage { .. } | Self::Client(ClientError::SocketPath { .. } | ClientError::Address { .. }) => USAGE,
            Self::NoSamples { .. } | Self::NoReadings { .. } | Self::NoEarlierCensus { .. } => NO_SAMPLES,
            Self::Client(ClientError::SocketForbidden { .. } | ClientError::NotAllowed { .. }) => NO_PERMISSION,
            _ => FAILURE,
        }
    }

    /// Whether the reader of our output has gone, as `head` does: not an error of ours.
    fn is_closed_pipe(&self) -> bool {
        match self {
            Self::Output(source) | Self::WriteFile { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
            Self::Encode(error) => error.io_error_kind() == Some(io::ErrorKind::BrokenPipe),
            _ => false,
        }
    }
}

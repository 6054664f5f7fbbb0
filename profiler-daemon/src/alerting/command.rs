//! What may be asked of the thread that holds readings against limits.

use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use profiler_alerts::{Alert, AlertId, Change, InvalidSilence, Limit, Matcher, Silence, SilenceId};
use profiler_config::Alerts;
use profiler_store::{
    Owner,
    state::{AlertQuery, Evidence, StateError},
};
use tokio::sync::{broadcast, oneshot};

use crate::{command::Reply, sinks::Dispatcher};

/// Commands that may wait at one time.
pub(super) const COMMAND_QUEUE: usize = 64;
/// Changes that a stream of alerts may be behind before it misses some.
pub(super) const CHANGE_QUEUE: usize = 256;

/// What may be asked.
#[derive(Debug)]
pub enum Command {
    /// The limits in force, each with the alerts that it has now.
    Limits {
        /// In the order of their names.
        reply: Reply<Vec<LimitInForce>>,
    },
    /// Alerts, the newest first.
    List {
        /// Which.
        query: AlertQuery,
        /// Those that are kept.
        reply: Reply<Result<Vec<ShownAlert>, StateError>>,
    },
    /// One alert and what is kept with it.
    Get {
        /// Which.
        id: AlertId,
        /// `None` if it is not kept.
        reply: Reply<Result<Option<AlertWithEvidence>, StateError>>,
    },
    /// The silences that hold.
    Silences {
        /// By their numbers.
        reply: Reply<Vec<Silence>>,
    },
    /// Keep alerts from being told.
    Silence {
        /// Which alerts.
        matchers: Vec<Matcher>,
        /// For how long.
        duration: Duration,
        /// Who asks.
        who: String,
        /// Why.
        comment: String,
        /// The silence with its number.
        reply: Reply<Result<Silence, SilenceError>>,
    },
    /// End a silence.
    Unsilence {
        /// Which.
        id: SilenceId,
        /// Whether there was one.
        reply: Reply<Result<bool, StateError>>,
    },
    /// What changed in the configuration.
    Configure {
        /// Hold readings against these limits from now on.
        limits: Vec<Arc<Limit>>,
        /// What is kept of alerts.
        settings: Alerts,
    },
}

/// A limit and its alerts.
#[derive(Clone, Debug)]
pub struct LimitInForce {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Alerts that are pending.
    pub pending: u32,
    /// Alerts that fire.
    pub firing: u32,
}

/// An alert as it is shown.
#[derive(Clone, Debug)]
pub struct ShownAlert {
    /// The alert.
    pub alert: Alert,
    /// A silence keeps it from being told.
    pub silenced: bool,
    /// What is known of the process that it is about.
    pub owner: Option<Owner>,
}

/// An alert and what is kept with it.
#[derive(Clone, Debug)]
pub struct AlertWithEvidence {
    /// The alert.
    pub shown: ShownAlert,
    /// What was found, as text.
    pub lines: Vec<String>,
    /// What was found, packed; none while it is being gathered, or once it was dropped for room.
    pub(super) packed: Option<Evidence>,
}

impl AlertWithEvidence {
    /// Unpacks the evidence, which takes a while. None if there is none, or if it is damaged.
    pub fn unpack(self) -> Option<Vec<u8>> {
        let unpacked = super::collector::unpack(self.packed?);
        if let Err(error) = &unpacked {
            tracing::warn!(alert = %self.shown.alert.id, %error, "evidence cannot be unpacked");
        }
        unpacked.ok()
    }
}

/// A change as those who watch see it.
#[derive(Clone, Debug)]
pub struct ShownChange {
    /// What happened.
    pub change: Change,
    /// The alert after it.
    pub shown: ShownAlert,
}

/// Why a silence was not made.
#[derive(Debug, thiserror::Error)]
pub enum SilenceError {
    /// There can be no such silence.
    #[error(transparent)]
    Invalid(#[from] InvalidSilence),
    /// It could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertingError {
    /// Too many ask at once.
    #[error("too many requests wait for the alerts")]
    Busy,
    /// The thread has ended.
    #[error("limits are not evaluated")]
    Ended,
}

/// In reach of whoever asks. Never waits for the thread.
#[derive(Clone, Debug)]
pub struct AlertingHandle {
    pub(super) commands: SyncSender<Command>,
    pub(super) changes: broadcast::Sender<ShownChange>,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl AlertingHandle {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// There will be none.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AlertingError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply))?;
        answer.await.map_err(|_dropped| AlertingError::Ended)
    }

    /// Tells, without an answer.
    ///
    /// # Errors
    /// It was not heard.
    pub fn tell(&self, command: Command) -> Result<(), AlertingError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => AlertingError::Busy,
            TrySendError::Disconnected(_) => AlertingError::Ended,
        })
    }

    /// Who tells sinks.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Every change from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ShownChange> {
        self.changes.subscribe()
    }
}

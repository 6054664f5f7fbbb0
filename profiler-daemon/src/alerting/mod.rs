//! Limits in force: a thread that holds the newest readings against them once a second, keeps what comes of it over
//! restarts, has evidence collected, and has those told who are to be.
//!
//! In: the series of the readings, limits, and what is asked. Out: alerts in `state.db`, evidence with them, notifications to
//! the sinks, and each change to whoever watches. It waits for nobody: evidence is collected by a thread of its own, sinks
//! have their own queues, and a disk that cannot be written keeps changes waiting.

mod censuses;
mod collector;
mod command;
mod keeper;
mod observe;
mod owners;
mod quiet;
mod teller;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use profiler_alerts::{Limit, Moment};
use profiler_config::Alerts;
use profiler_store::state::{Bounds, StateError};
use tokio::sync::broadcast;

pub use self::collector::Sources;
pub use self::command::{
    AlertWithEvidence, AlertingError, AlertingHandle, Command, LimitInForce, ShownAlert, ShownChange, SilenceError,
};
use self::keeper::Keeper;
use crate::{
    health::{Health, Part},
    readings::Board,
    sinks::Dispatcher,
};

/// Time between two evaluations.
const EVALUATION: Duration = Duration::from_secs(1);

/// What the thread is made of.
#[derive(Debug)]
pub struct AlertingParts {
    /// The limits in force at the start.
    pub limits: Vec<Arc<Limit>>,
    /// Where alerts are kept.
    pub state_dir: PathBuf,
    /// Where evidence comes from, and the readings.
    pub sources: Sources,
    /// Tells sinks.
    pub dispatcher: Arc<Dispatcher>,
    /// The name of this host.
    pub host: String,
    /// What is kept of alerts.
    pub settings: Alerts,
    /// Where the states of the parts are.
    pub health: Arc<Health>,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

/// Why alerting cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Alerts can be kept nowhere, not even in memory.
    #[error("alerts can be kept nowhere: {0}")]
    State(#[from] StateError),
    /// The thread that gathers evidence cannot start.
    #[error("the thread that gathers evidence cannot start: {0}")]
    Thread(#[from] io::Error),
}

/// Alerting, ready to run on a thread of its own.
#[derive(Debug)]
pub struct Alerting {
    keeper: Keeper,
    commands: Receiver<Command>,
    stop: Arc<AtomicBool>,
}

impl Alerting {
    /// Takes alerts up where the daemon before left them.
    ///
    /// # Errors
    /// Alerts can be kept nowhere, or a thread cannot start.
    pub fn new(parts: AlertingParts) -> Result<(Self, AlertingHandle), StartError> {
        let (sender, commands) = sync_channel(command::COMMAND_QUEUE);
        let changes = broadcast::Sender::new(command::CHANGE_QUEUE);
        let handle = AlertingHandle {
            commands: sender,
            changes: changes.clone(),
            dispatcher: Arc::clone(&parts.dispatcher),
        };
        let stop = Arc::clone(&parts.stop);
        let keeper = Keeper::new(parts, changes, now())?;
        let alerting = Self { keeper, commands, stop };
        Ok((alerting, handle))
    }

    /// Evaluates until it is told to stop.
    pub fn run(mut self) {
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let rest = due.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(rest) {
                Ok(command) => self.keeper.answer(command, now()),
                Err(RecvTimeoutError::Timeout) => {
                    self.keeper.evaluate(now());
                    // A round that took too long is not made up for.
                    due = (due + EVALUATION).max(Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.keeper.end(now());
    }
}

fn now() -> Moment {
    let now = Board::now();
    Moment {
        time: now.wall,
        since_boot: now.steady,
    }
}

fn bounds(settings: &Alerts) -> Bounds {
    Bounds {
        history: settings.history,
        max_history: usize::try_from(settings.max_history.get()).unwrap_or(usize::MAX),
        max_evidence_bytes: settings.max_evidence_bytes,
    }
}

/// Reports how well alerts are kept.
fn report(health: &Health, condition: profiler_store::state::Condition) {
    use profiler_store::state::Condition;

    use crate::health::PartState;

    let state = match condition {
        Condition::Kept => PartState::Active,
        Condition::Renewed { set_aside, reason } => PartState::Failed {
            reason: format!("alerts of before are lost: the file could not be read: {reason}"),
            remedy: format!(
                "Look at {}; then restart the daemon to clear this.",
                set_aside.display()
            ),
        },
        Condition::InMemory { reason } => PartState::Failed {
            reason: format!("alerts are kept in memory only and end with the daemon: {reason}"),
            remedy: "Let the daemon write its state directory, then restart it.".to_owned(),
        },
        Condition::Waiting { reason, waiting } => PartState::Failed {
            reason: format!("{waiting} changed alerts wait in memory: {reason}"),
            remedy: "Make room on the disk of the state directory, or let the daemon write there.".to_owned(),
        },
    };
    health.report(Part::Alerts, state);
}

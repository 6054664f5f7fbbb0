//! From an alert to what sinks are told of it.

use std::sync::Arc;

use profiler_alerts::Alert;
use profiler_store::Owner;

use crate::{
    health::PartState,
    sinks::{Dispatcher, Notification, SinkState, Surroundings},
};

/// Tells the sinks of a limit of its alerts.
#[derive(Debug)]
pub(super) struct Teller {
    dispatcher: Arc<Dispatcher>,
    host: String,
    pub(super) external_url: String,
}

impl Teller {
    pub(super) fn new(dispatcher: Arc<Dispatcher>, host: String, external_url: String) -> Self {
        Self {
            dispatcher,
            host,
            external_url,
        }
    }

    /// How well sinks are told; disabled where there are none.
    pub(super) fn state(&self) -> PartState {
        let statuses = self.dispatcher.statuses();
        if statuses.is_empty() {
            return PartState::Disabled {
                reason: "no sink is configured and switched on".to_owned(),
            };
        }
        let failing: Vec<String> = statuses
            .iter()
            .filter_map(|status| match &status.state {
                SinkState::Failed { reason, .. } => Some(format!("{}: {reason}", status.name)),
                SinkState::Active => None,
            })
            .collect();
        match failing.is_empty() {
            true => PartState::Active,
            false => PartState::Failed {
                reason: failing.join("; "),
                remedy: "`profiler-cli alerts sinks` says more; what is to be told is kept and tried again.".to_owned(),
            },
        }
    }

    /// Hands an alert that fires, or is over, to the sinks of its limit; of one about a process with what is known of that.
    pub(super) fn tell(&self, alert: &Alert, owner: Option<&Owner>, lines: &[String]) {
        let around = Surroundings {
            host: &self.host,
            external_url: &self.external_url,
            owner,
            stacks: lines,
        };
        if let Some(notification) = Notification::of(alert, &around) {
            self.dispatcher.notify(&Arc::new(notification), &alert.limit.sinks);
        }
    }
}

//! From an alert to what sinks are told of it.

use std::sync::Arc;

use profiler_alerts::Alert;

use crate::sinks::{Dispatcher, Notification, Surroundings};

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

    /// Hands an alert that fires, or is over, to the sinks of its limit.
    pub(super) fn tell(&self, alert: &Alert, lines: &[String]) {
        let around = Surroundings {
            host: &self.host,
            external_url: &self.external_url,
            stacks: lines,
        };
        if let Some(notification) = Notification::of(alert, &around) {
            self.dispatcher.notify(&Arc::new(notification), &alert.limit.sinks);
        }
    }
}

//! Commands: the notification as JSON on standard input.

use std::{sync::Arc, time::Duration};

use profiler_profile::visible;
use serde::Serialize;

use super::{delivery::Deliver, mailbox::DeliveryError, notification::Notification};
use crate::children::{End, Job, Runner};

/// What is kept of what a command writes.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// What is shown of it when it fails.
const MAX_SHOWN_BYTES: usize = 400;

/// A command.
#[derive(Debug)]
pub(super) struct CommandSink {
    pub(super) argv: Arc<[String]>,
    pub(super) timeout: Duration,
    pub(super) runner: Runner,
}

/// What a command reads.
#[derive(Serialize)]
struct Input<'a> {
    version: u32,
    #[serde(flatten)]
    notification: &'a Notification,
}

impl Deliver for CommandSink {
    async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
        for notification in batch {
            let input = Input {
                version: 1,
                notification,
            };
            let input = serde_json::to_vec(&input).map_err(|error| DeliveryError::Refused {
                reason: error.to_string(),
            })?;
            let job = Job {
                argv: Arc::clone(&self.argv),
                input,
                timeout: self.timeout,
                max_output_bytes: MAX_OUTPUT_BYTES,
            };
            let runner = self.runner.clone();
            // It waits for a process.
            let ended = tokio::task::spawn_blocking(move || runner.run(&job)).await;
            let failed = |reason: String| DeliveryError::Failed { reason };
            let outcome = ended
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?;
            if outcome.end != End::Exited(0) {
                let output = String::from_utf8_lossy(&outcome.output);
                return Err(failed(match output.trim() {
                    "" => outcome.end.to_string(),
                    text => format!("{}: {}", outcome.end, visible(text, MAX_SHOWN_BYTES)),
                }));
            }
        }
        Ok(())
    }
}

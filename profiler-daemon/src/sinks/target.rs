//! A sink of the configuration, ready to be told.

use std::{path::PathBuf, sync::Arc};

use profiler_config::{Sink, SinkTarget};

use super::{
    alertmanager::{self, Alertmanager},
    command::CommandSink,
    delivery::Deliver,
    dispatcher::Settings,
    http::Client,
    journal::{self, Journal},
    mailbox::DeliveryError,
    notification::Notification,
    queue::Keeps,
    webhook::Webhook,
};

/// How a sink is told.
#[derive(Debug)]
enum Way {
    Journal(Journal),
    Webhook(Webhook),
    Alertmanager(Alertmanager),
    Command(CommandSink),
}

/// A sink, and for how long an attempt may take.
#[derive(Debug)]
pub(super) struct Target {
    way: Way,
    timeout: std::time::Duration,
}

impl Target {
    pub(super) fn of(sink: &Sink, settings: &Settings) -> Self {
        let way = match &sink.target {
            SinkTarget::Journal => Way::Journal(Journal {
                socket: PathBuf::from(journal::SOCKET),
            }),
            SinkTarget::Webhook(endpoint) => Way::Webhook(Webhook {
                name: sink.name.clone(),
                external_url: settings.external_url.clone(),
                signing_key_file: endpoint.signing_key_file.clone(),
                client: Client::new(endpoint, ""),
            }),
            SinkTarget::Alertmanager(endpoint) => Way::Alertmanager(Alertmanager {
                client: Client::new(endpoint, alertmanager::PATH),
                repeat: settings.pace.repeat,
            }),
            SinkTarget::Command { argv } => Way::Command(CommandSink {
                argv: argv.clone().into(),
                timeout: sink.timeout,
                runner: settings.runner.clone(),
            }),
        };
        Self {
            way,
            timeout: sink.timeout,
        }
    }

    /// What is kept for it.
    pub(super) fn keeps(&self) -> Keeps {
        match self.way {
            Way::Alertmanager(_) => Keeps::Newest,
            Way::Journal(_) | Way::Webhook(_) | Way::Command(_) => Keeps::Each,
        }
    }
}

impl Deliver for Target {
    async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
        let attempt = async {
            match &self.way {
                Way::Journal(journal) => journal.deliver(batch).await,
                Way::Webhook(webhook) => webhook.deliver(batch).await,
                Way::Alertmanager(alertmanager) => alertmanager.deliver(batch).await,
                // It ends in time by itself: what it forked must end with it.
                Way::Command(command) => return command.deliver(batch).await,
            }
        };
        let limit = match self.way {
            Way::Command(_) => std::time::Duration::MAX,
            _ => self.timeout,
        };
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_elapsed) => Err(DeliveryError::Failed {
                reason: format!("no answer within {} s", self.timeout.as_secs_f64()),
            }),
        }
    }
}

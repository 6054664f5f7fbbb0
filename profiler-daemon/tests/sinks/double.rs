//! Sinks and notifications for tests.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_alerts::Severity;
use profiler_config::{Endpoint, Sink, SinkTarget};
use profiler_daemon::{
    children::Runner,
    sinks::{Dispatcher, Notification, Pace, Settings, SinkStatus, Status},
};
use profiler_store::state::Outbox;

/// The daemon, which is also the supervisor of children.
pub(crate) const DAEMON: &str = env!("CARGO_BIN_EXE_profiler-daemon");

pub(crate) fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        proxy: None,
        proxy_auth_file: None,
        token_file: None,
        headers_file: None,
        signing_key_file: None,
        ca_file: None,
    }
}

pub(crate) fn sink(name: &str, target: SinkTarget) -> Sink {
    Sink {
        name: name.to_owned(),
        enabled: true,
        min_severity: Severity::Info,
        timeout: Duration::from_secs(10),
        target,
    }
}

pub(crate) fn webhook(name: &str, url: &str) -> Sink {
    sink(name, SinkTarget::Webhook(endpoint(url)))
}

/// Attempts follow each other quickly.
pub(crate) fn settings() -> Settings {
    Settings {
        pace: Pace {
            first_delay: Duration::from_millis(10),
            longest_delay: Duration::from_millis(100),
            ..Pace::default()
        },
        runner: Runner::new(DAEMON.into()),
        ..Settings::new("node1".to_owned(), "https://profiler.example".to_owned())
    }
}

pub(crate) fn start(folder: &Path, sinks: &[Sink]) -> Dispatcher {
    Dispatcher::start(sinks, Outbox::open(folder).unwrap(), settings()).unwrap()
}

/// An alert of a limit with this name.
pub(crate) fn notification(limit: &str, status: Status) -> Arc<Notification> {
    let mut notification = Notification::test("node1", limit, SystemTime::now());
    notification.limit = limit.to_owned();
    notification.id = format!("{limit}-1");
    notification.fingerprint = format!("{limit}-f");
    notification.labels.insert("alertname".to_owned(), limit.to_owned());
    notification.status = status;
    notification.ends_at = (status == Status::Resolved).then(SystemTime::now);
    Arc::new(notification)
}

pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What one sink is doing.
pub(crate) fn status(dispatcher: &Dispatcher, name: &str) -> SinkStatus {
    let mut statuses = dispatcher.statuses().into_iter();
    statuses.find(|status| status.name == name).unwrap()
}

//! The systemd journal: an entry with a field for each fact. Where there is no journal, a line of JSON on standard error.

use std::{
    io::{self, ErrorKind, Write as _},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::Arc,
};

use serde::Serialize;

use super::{
    delivery::Deliver,
    mailbox::DeliveryError,
    notification::{Notification, Severity, Status},
};

/// Where the journal listens (systemd's native journal protocol).
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// What marks entries of alerts: `journalctl MESSAGE_ID=...`.
const MESSAGE_ID: &str = "5e8b7f2c6a9d4b1f8e03c7d15a64f290";
const IDENTIFIER: &str = "profiler-daemon";
/// Priorities of syslog.
const CRITICAL: &str = "2";
const WARNING: &str = "4";
const NOTICE: &str = "5";

/// The journal of this host.
#[derive(Debug)]
pub(super) struct Journal {
    /// Where it listens.
    pub(super) socket: PathBuf,
}

impl Journal {
    fn send(&self, entry: &[u8]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // A journal that does not keep up must not keep other sinks waiting.
        socket.set_nonblocking(true)?;
        let sent = socket.send_to(entry, &self.socket)?;
        if sent < entry.len() {
            return Err(ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

impl Deliver for Journal {
    async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
        for notification in batch {
            let told = match self.send(&entry(notification)) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    line(notification).and_then(|line| io::stderr().write_all(&line))
                }
                result => result,
            };
            told.map_err(|error| DeliveryError::Failed {
                reason: format!("{}: {error}", self.socket.display()),
            })?;
        }
        Ok(())
    }
}

/// The names and values of an entry.
fn fields(notification: &Notification) -> Vec<(&'static str, String)> {
    let priority = match (notification.status, notification.severity) {
        (Status::Firing, Severity::Critical) => CRITICAL,
        (Status::Firing, Severity::Warning) => WARNING,
        _ => NOTICE,
    };
    let annotation = |name: &str| notification.annotations.get(name).cloned().unwrap_or_default();
    let label = |name: &str| notification.labels.get(name).cloned().unwrap_or_default();
    let mut fields = vec![
        (
            "MESSAGE",
            format!("{}: {}", notification.status.name(), notification.summary()),
        ),
        ("MESSAGE_ID", MESSAGE_ID.to_owned()),
        ("PRIORITY", priority.to_owned()),
        ("SYSLOG_IDENTIFIER", IDENTIFIER.to_owned()),
        ("PROFILER_ALERT", notification.limit.clone()),
        ("PROFILER_ALERT_ID", notification.id.clone()),
        ("PROFILER_FINGERPRINT", notification.fingerprint.clone()),
        ("PROFILER_STATUS", notification.status.name().to_owned()),
        ("PROFILER_SEVERITY", label("severity")),
        ("PROFILER_KIND", label("kind")),
        ("PROFILER_METRIC", notification.metric.clone()),
        ("PROFILER_SCOPE", notification.scope.clone()),
        ("PROFILER_SUBJECT", notification.subject.clone()),
        ("PROFILER_SERVICE", notification.service.clone()),
        ("PROFILER_PROCESS", notification.process.clone()),
        ("PROFILER_VALUE", annotation("value")),
        ("PROFILER_SINCE", annotation("since")),
        ("PROFILER_SHOW", annotation("show")),
        ("PROFILER_STACKS", annotation("stacks")),
    ];
    fields.retain(|(_, value)| !value.is_empty());
    fields
}

/// An entry of the native protocol: `NAME=value`, or where the value has more than one line its length before it.
fn entry(notification: &Notification) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields(notification) {
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// What is written where there is no journal.
#[derive(Serialize)]
struct Line<'a> {
    message: &'a str,
    alert: &'a Notification,
}

fn line(notification: &Notification) -> io::Result<Vec<u8>> {
    let line = Line {
        message: notification.summary(),
        alert: notification,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn notification() -> Notification {
        let mut notification = Notification::test("host", "journal", SystemTime::UNIX_EPOCH);
        notification.scope = "service".to_owned();
        notification.subject = "web".to_owned();
        notification.service = "web".to_owned();
        notification
            .annotations
            .insert("stacks".to_owned(), "a;b 2\na;c 1".to_owned());
        notification
    }

    #[tokio::test]
    async fn the_journal_gets_a_field_for_each_fact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let journal = Journal { socket: path };
        journal.deliver(&[Arc::new(notification())]).await.unwrap();
        let mut bytes = vec![0; 1 << 16];
        let length = socket.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("MESSAGE=firing: A test of the sink journal"), "{text}");
        for line in [
            "PROFILER_ALERT=profiler_test",
            "PROFILER_SERVICE=web",
            "PRIORITY=5",
            "PROFILER_STATUS=firing",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
        let mut stacks = b"\nPROFILER_STACKS\n".to_vec();
        stacks.extend_from_slice(&11_u64.to_le_bytes());
        stacks.extend_from_slice(b"a;b 2\na;c 1\n");
        assert!(bytes.ends_with(&stacks), "{text}");
    }

    #[test]
    fn without_a_journal_it_is_one_line() {
        let bytes = line(&notification()).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["alert"]["status"], "firing");
    }

    #[test]
    fn how_much_it_matters() {
        for (status, severity, expected) in [
            (Status::Firing, Severity::Critical, "2"),
            (Status::Firing, Severity::Warning, "4"),
            (Status::Firing, Severity::Info, "5"),
            (Status::Resolved, Severity::Critical, "5"),
        ] {
            let mut notification = notification();
            (notification.status, notification.severity) = (status, severity);
            assert!(fields(&notification).contains(&("PRIORITY", expected.to_owned())));
        }
    }
}

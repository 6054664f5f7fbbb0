//! A real Alertmanager on this host: it takes, groups and resolves what it is told.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler_alerts::{
    Alert, AlertId, AlertKind, Comparison, EndReason, Fingerprint, Level, Limit, Phase, Severity, Subjects,
};
use profiler_config::SinkTarget;
use profiler_daemon::sinks::{Notification, SinkState, Surroundings};
use profiler_readings::{Metric, Subject};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    double::{endpoint, names, sink, start, status},
    receiver::{Receiver, wait_until},
};

/// As Debian names it, and where it comes from.
const PROGRAM: &str = "prometheus-alertmanager";

/// An Alertmanager that ends with its test.
struct Alertmanager {
    address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Alertmanager {
    /// Starts one that tells a webhook of everything; none where the program is not installed.
    fn start(receiver: &Receiver) -> Option<Self> {
        let folder = tempdir().unwrap();
        let config = folder.path().join("alertmanager.yml");
        let text = format!(
            "route:\n  receiver: hook\n  group_by: [alertname]\n  group_wait: 2s\n  group_interval: 1s\n  \
             repeat_interval: 1h\nreceivers:\n- name: hook\n  webhook_configs:\n  - url: {}\n    send_resolved: true\n",
            receiver.url()
        );
        fs::write(&config, text).unwrap();
        // Free now, and most likely still in a moment.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(PROGRAM)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match process {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("not run: {PROGRAM} is not installed: apt-get install {PROGRAM}");
                return None;
            }
            Err(error) => panic!("{PROGRAM}: {error}"),
        };
        let alertmanager = Self {
            address,
            process,
            _folder: folder,
        };
        wait_until("readiness", || alertmanager.get("/-/ready").is_some());
        Some(alertmanager)
    }

    /// The body of an answer of the kind 200.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let host = self.address;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest).ok()?;
        let (_, body) = rest.split_once("\r\n\r\n")?;
        line.contains(" 200 ").then(|| body.to_owned())
    }

    fn alerts(&self) -> Vec<Value> {
        serde_json::from_str(&self.get("/api/v2/alerts").unwrap()).unwrap()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// An alert about a service.
fn told(service: &str, resolved: bool) -> Arc<Notification> {
    let subject = Subject::Service(service.into());
    let fingerprint = Fingerprint::of("service_memory", &subject, AlertKind::Limit);
    let now = SystemTime::now();
    let since = now - Duration::from_secs(60);
    let phase = match resolved {
        false => Phase::Firing { since },
        true => Phase::Resolved {
            since,
            at: now,
            reason: EndReason::Recovered,
        },
    };
    let limit = Limit {
        name: "service_memory".to_owned(),
        metric: Metric::ServiceMemory,
        subjects: Subjects::All,
        comparison: Comparison::Above,
        level: Level::new(1e9).unwrap(),
        clear: Level::new(9e8).unwrap(),
        hold_for: Duration::from_secs(30),
        keep_firing_for: Duration::ZERO,
        no_data_after: Duration::from_secs(60),
        severity: Severity::Warning,
        labels: [("team".to_owned(), "wéb \"x\"".to_owned())].into(),
        sinks: Vec::new(),
    };
    let alert = Alert {
        id: AlertId::of(fingerprint, UNIX_EPOCH),
        fingerprint,
        kind: AlertKind::Limit,
        limit: Arc::new(limit),
        subject,
        began: since,
        phase,
        latest: Some(1.5e9),
        worst: Some(2e9),
        told: true,
    };
    let stacks = ["web;handle;burn 812".to_owned()];
    let around = Surroundings {
        owner: None,
        host: "node1",
        external_url: "https://profiler.example",
        stacks: &stacks,
    };
    Arc::new(Notification::of(&alert, &around).unwrap())
}

#[test]
fn a_real_alertmanager_takes_groups_and_resolves() {
    let receiver = Receiver::start();
    let Some(alertmanager) = Alertmanager::start(&receiver) else {
        return;
    };
    let folder = tempdir().unwrap();
    let url = format!("http://{}/", alertmanager.address);
    let dispatcher = start(folder.path(), &[sink("am", SinkTarget::Alertmanager(endpoint(&url)))]);
    for service in ["web", "worker"] {
        dispatcher.notify(&told(service, false), &names(&["am"]));
    }
    wait_until("alerts", || alertmanager.alerts().len() == 2);
    let alerts = alertmanager.alerts();
    let web = alerts.iter().find(|alert| alert["labels"]["subject"] == "web").unwrap();
    // Computed of the labels alone, on both sides.
    assert_eq!(web["fingerprint"], told("web", false).fingerprint.as_str());
    assert_eq!(web["labels"]["team"], "wéb \"x\"");

    // Both in one message, with what ran.
    let whole = || {
        let mut bodies = receiver.requests().into_iter().map(|request| request.json());
        bodies.find(|body| body["alerts"].as_array().unwrap().len() == 2)
    };
    wait_until("message of both", || whole().is_some());
    let firing = whole().unwrap();
    assert_eq!((&firing["version"], &firing["status"]), (&json!("4"), &json!("firing")));
    for alert in firing["alerts"].as_array().unwrap() {
        assert_eq!(alert["annotations"]["stacks"], "web;handle;burn 812");
        let link = alert["generatorURL"].as_str().unwrap();
        assert!(link.starts_with("https://profiler.example/alerts/"), "{link}");
    }

    // The end is told of both, also of one that is for another sink by now.
    dispatcher.notify(&told("web", true), &names(&["am"]));
    dispatcher.notify(&told("worker", true), &[]);
    let ended = || {
        let bodies = receiver.requests().into_iter().map(|request| request.json());
        let alerts = bodies.flat_map(|body| body["alerts"].as_array().unwrap().clone());
        let ended = alerts.filter(|alert| alert["status"] == "resolved");
        let subject = |alert: Value| (alert["labels"]["subject"].as_str().unwrap().to_owned(), alert);
        ended.map(subject).collect::<BTreeMap<_, _>>()
    };
    wait_until("end of both", || ended().len() == 2);
    for alert in ended().values() {
        assert_eq!(alert["annotations"]["end"], "recovered");
        assert_ne!(alert["endsAt"], "0001-01-01T00:00:00Z");
    }
    wait_until("empty list", || alertmanager.alerts().is_empty());
    let status = status(&dispatcher, "am");
    assert_eq!((status.state, status.counts.refused), (SinkState::Active, 0));
}

//! What a webhook is sent.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use hmac::{Hmac, KeyInit as _, Mac as _};
use profiler_config::{Sink, SinkTarget};
use profiler_daemon::sinks::{DeliveryError, SinkState, Status, TestError};
use serde_json::json;
use sha2::Sha256;
use tempfile::tempdir;

use crate::{
    double::{endpoint, names, notification, sink, start, status, webhook},
    receiver::{Receiver, wait_until},
};

fn secret(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A webhook with every secret that there is.
fn with_secrets(folder: &Path, url: &str) -> Sink {
    let mut endpoint = endpoint(url);
    endpoint.token_file = Some(secret(folder, "token", "t0ken-of-ops\n"));
    endpoint.headers_file = Some(secret(folder, "headers", "X-Key: k3y-of-ops\n"));
    endpoint.signing_key_file = Some(secret(folder, "key", "s1gns\n"));
    sink("ops", SinkTarget::Webhook(endpoint))
}

#[test]
fn the_body_is_that_of_an_alertmanager() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let dispatcher = start(folder.path(), &[with_secrets(folder.path(), &receiver.url())]);
    let firing = notification("host_cpu", Status::Firing);
    dispatcher.notify(&firing, &names(&["ops"]));
    let request = receiver.wait_for(1).remove(0);
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    let header = |name: &str| request.headers[name].as_str();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("host"), receiver.address.to_string());
    assert_eq!(header("authorization"), "Bearer t0ken-of-ops");
    assert_eq!(header("x-key"), "k3y-of-ops");
    assert_eq!(header("idempotency-key"), "host_cpu-1-firing");
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s1gns").unwrap();
    mac.update(&request.body);
    let digits = header("x-profiler-signature").strip_prefix("sha256=").unwrap();
    let byte = |index: usize| u8::from_str_radix(&digits[index..index + 2], 16).unwrap();
    let signature: Vec<u8> = (0..64).step_by(2).map(byte).collect();
    mac.verify_slice(&signature).unwrap();

    let mut body = request.json();
    let starts_at = body["alerts"][0]["startsAt"].take();
    assert!(starts_at.as_str().unwrap().ends_with('Z'), "{starts_at}");
    let labels = json!({"alertname": "host_cpu", "instance": "node1", "severity": "info", "test": "true"});
    let annotations = json!({
        "summary": "A test of the sink host_cpu: nothing is wrong, and nothing need be done"
    });
    let expected = json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"host_cpu\"}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "ops",
        "groupLabels": {"alertname": "host_cpu"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "https://profiler.example",
        "alerts": [{
            "status": "firing",
            "labels": labels,
            "annotations": annotations,
            "startsAt": null,
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": "host_cpu-f",
        }],
    });
    assert_eq!(body, expected);

    dispatcher.notify(&notification("host_cpu", Status::Resolved), &names(&["ops"]));
    let request = receiver.wait_for(2).remove(1);
    assert_eq!(request.headers["idempotency-key"], "host_cpu-1-resolved");
    let body = request.json();
    assert_eq!(
        (&body["status"], &body["alerts"][0]["status"]),
        (&json!("resolved"), &json!("resolved"))
    );
    assert_ne!(body["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
}

#[test]
fn secrets_are_not_shown_when_they_come_back() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let echo = "403 Forbidden\r\n\r\nno: t0ken-of-ops, k3y-of-ops";
    receiver.answer(&[echo; 1000]);
    let dispatcher = start(folder.path(), &[with_secrets(folder.path(), &receiver.url())]);
    dispatcher.notify(&notification("a", Status::Firing), &names(&["ops"]));
    wait_until("failure", || status(&dispatcher, "ops").counts.retried > 0);
    let SinkState::Failed { reason, .. } = status(&dispatcher, "ops").state else {
        panic!("it failed");
    };
    assert_eq!(reason, "answered 403 Forbidden: no: [secret], [secret]");
    let shown = format!("{dispatcher:?}");
    assert!(!shown.contains("t0ken") && !shown.contains("k3y") && !shown.contains("s1gns"));
}

#[test]
fn a_secret_that_others_can_read_is_not_sent() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let sink = with_secrets(folder.path(), &receiver.url());
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(folder.path().join("token"), open).unwrap();
    let dispatcher = start(folder.path(), &[sink]);
    dispatcher.notify(&notification("a", Status::Firing), &names(&["ops"]));
    wait_until("failure", || status(&dispatcher, "ops").counts.retried > 1);
    let status = status(&dispatcher, "ops");
    assert!(
        matches!(&status.state, SinkState::Failed { reason, .. } if reason.contains("mode 644")),
        "{status:?}"
    );
    assert!(receiver.requests().is_empty());
    // It is read anew each time.
    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join("token"), closed).unwrap();
    receiver.wait_for(1);
}

#[test]
fn what_is_refused_does_not_hold_up_the_rest() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let flood = format!("400 Bad\r\n\r\n{}", "x".repeat(1 << 20));
    receiver.answer(&[&flood, "302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"]);
    let dispatcher = start(folder.path(), &[webhook("ops", &receiver.url())]);
    for limit in ["bad", "good"] {
        dispatcher.notify(&notification(limit, Status::Firing), &names(&["ops"]));
    }
    let requests = receiver.wait_for(3);
    // Nobody was led elsewhere: the second came again.
    assert_eq!(
        requests.iter().map(|request| request.told()).collect::<Vec<_>>(),
        ["bad firing", "good firing", "good firing"]
    );
    wait_until("success", || status(&dispatcher, "ops").counts.sent == 1);
    let counts = status(&dispatcher, "ops").counts;
    assert_eq!((counts.refused, counts.retried), (1, 1));
}

#[tokio::test]
async fn a_sink_can_be_tried() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    receiver.answer(&["200 OK\r\n\r\n", "500 Broken\r\n\r\nno"]);
    let dispatcher = start(folder.path(), &[webhook("ops", &receiver.url())]);
    dispatcher.test("ops").await.unwrap();
    assert_eq!(receiver.requests()[0].told(), "profiler_test firing");
    let reason = "answered 500 Internal Server Error: no".to_owned();
    assert_eq!(
        dispatcher.test("ops").await,
        Err(TestError::Delivery(DeliveryError::Failed { reason }))
    );
    assert!(matches!(dispatcher.test("x").await, Err(TestError::Unknown { .. })));
}

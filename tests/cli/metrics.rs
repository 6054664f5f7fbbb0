//! `metrics`: readings for people and as JSON, and what is asked of the daemon for them.

use std::time::Duration;

use profiler_proto::v1::{
    GetRangeResponse, MetricDescription, MetricKind, Reading, Scope, Series, Step, Subject, Unit, WatchReadingsResponse,
};
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, ReadingQuery, Script},
    fixture,
    messages::{HOSTILE, PID},
    program::{self, Outcome},
};

fn time() -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_772_366_400,
        nanos: 0,
    })
}

fn metric(name: &str, scope: Scope, kind: MetricKind, unit: Unit) -> MetricDescription {
    MetricDescription {
        name: name.to_owned(),
        scope: scope.into(),
        kind: kind.into(),
        unit: unit.into(),
        help: format!("What {name} says"),
        series: 1,
    }
}

fn metrics() -> Vec<MetricDescription> {
    use MetricKind::{Counter, Gauge};
    vec![
        metric("host_cpu_busy_ratio", Scope::Host, Gauge, Unit::Ratio),
        metric("host_memory_available_bytes", Scope::Host, Gauge, Unit::Bytes),
        metric("host_memory_used_ratio", Scope::Host, Gauge, Unit::Ratio),
        metric("service_cpu_cores", Scope::Service, Gauge, Unit::Cores),
        metric("process_read_bytes_total", Scope::Process, Counter, Unit::Bytes),
    ]
}

fn subject(scope: Scope, name: &str) -> Option<Subject> {
    Some(Subject {
        scope: scope.into(),
        name: name.to_owned(),
        ..Subject::default()
    })
}

fn readings() -> Vec<Reading> {
    let process = Subject {
        scope: Scope::Process.into(),
        name: HOSTILE.to_owned(),
        pid: PID,
        start_ticks: 77,
        service: "checkout.service".to_owned(),
    };
    let reading = |metric: &str, subject, value, rate| Reading {
        metric: metric.to_owned(),
        subject,
        value,
        rate,
        time: time(),
    };
    vec![
        reading("host_cpu_busy_ratio", subject(Scope::Host, ""), 0.4127, None),
        reading(
            "service_cpu_cores",
            subject(Scope::Service, &HOSTILE.repeat(9)),
            1.5,
            None,
        ),
        reading("process_read_bytes_total", Some(process.clone()), 3e9, Some(1.5e6)),
        // Read once so far.
        reading(
            "process_read_bytes_total",
            Some(Subject { pid: 7, ..process }),
            5.0,
            None,
        ),
        // Of a newer daemon.
        reading("host_dreams", subject(Scope::Host, ""), 0.25, None),
    ]
}

fn range() -> GetRangeResponse {
    let step = |index, mean| Step {
        index,
        readings: 2,
        min: mean - 0.125,
        mean,
        max: mean + 0.125,
        last: mean,
    };
    GetRangeResponse {
        start_time: time(),
        end_time: time(),
        step: Some(prost_types::Duration { seconds: 25, nanos: 0 }),
        series: vec![Series {
            metric: "service_cpu_cores".to_owned(),
            subject: subject(Scope::Service, "checkout"),
            steps: vec![step(0, 0.25), step(1, 0.5), step(4, 2.0)],
            quantiles: vec![0.5, 2.125],
        }],
    }
}

fn daemon() -> FakeDaemon {
    FakeDaemon::start(Script {
        metrics: metrics(),
        readings: Ok(readings()),
        range: Ok(range()),
        ..Script::default()
    })
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap()
}

#[test]
fn readings_for_people() {
    let outcome = program::run(&daemon(), ["metrics"]).expect_success();
    fixture::compare("metrics.txt", outcome.text());
    let outcome = program::run(&daemon(), ["metrics", "--last", "10m"]).expect_success();
    fixture::compare("metrics-last.txt", outcome.text());
    let outcome = program::run(&daemon(), ["metrics", "--list"]).expect_success();
    fixture::compare("metrics-list.txt", outcome.text());
}

#[test]
fn readings_as_json() {
    let document = json(&program::run(&daemon(), ["metrics", "--json"]).expect_success());
    let readings = document["readings"].as_array().unwrap();
    assert_eq!(readings.len(), 5);
    let expected = serde_json::json!({
        "metric": "process_read_bytes_total", "unit": "bytes", "scope": "process", "subject": HOSTILE, "pid": PID,
        "service": "checkout.service", "value": 3e9, "rate": 1.5e6, "time": "2026-03-01T12:00:00Z",
    });
    assert_eq!(readings[2], expected);
    let host = serde_json::json!({
        "metric": "host_cpu_busy_ratio", "unit": "ratio", "scope": "host", "value": 0.4127,
        "time": "2026-03-01T12:00:00Z",
    });
    assert_eq!(readings[0], host);
    let document = json(&program::run(&daemon(), ["metrics", "--last", "10m", "--json"]).expect_success());
    assert_eq!(document["step_seconds"], 25.0);
    let series = &document["series"][0];
    assert_eq!(series["quantiles"], serde_json::json!({"0.5": 0.5, "0.99": 2.125}));
    assert_eq!(series["steps"][2]["index"], 4);
    let document = json(&program::run(&daemon(), ["metrics", "--list", "--json"]).expect_success());
    assert_eq!(document["metrics"][4]["kind"], "counter");
}

/// What the daemon was asked for by these arguments.
fn asked(arguments: &[&str]) -> ReadingQuery {
    let daemon = daemon();
    program::run(&daemon, [&["metrics"], arguments].concat()).expect_success();
    let mut seen = daemon.seen().readings;
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

#[test]
fn names_may_be_the_beginnings_of_names() {
    assert_eq!(
        asked(&["host_memory", "service_cpu_cores"]).selector.metrics,
        [
            "host_memory_available_bytes",
            "host_memory_used_ratio",
            "service_cpu_cores"
        ]
    );
    // Without names only those that tell most, as far as the daemon has them.
    assert_eq!(
        asked(&[]).selector.metrics,
        ["host_cpu_busy_ratio", "host_memory_used_ratio", "service_cpu_cores"]
    );
    let query = asked(&["--service", "checkout", "--scope", "process", "--scope", "cgroup"]);
    assert!(query.selector.metrics.is_empty(), "all of a service");
    assert_eq!(query.selector.service, "checkout");
    assert_eq!(
        query.selector.scopes,
        [i32::from(Scope::Process), i32::from(Scope::ControlGroup)]
    );
    assert_eq!(asked(&["--pid", "4242"]).selector.pid, 4242);
    assert_eq!(asked(&["--subject", "/var"]).selector.subject, "/var");
    let query = asked(&["--last", "10m"]);
    assert_eq!(query.step, Some(Duration::from_secs(25)));
    assert_eq!(query.quantiles, [0.5, 0.99]);
}

#[test]
fn what_is_not_there_has_its_exit_code() {
    let outcome = program::run(&daemon(), ["metrics", "no_such"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("no metric is called \"no_such\""),
        "{}",
        outcome.stderr
    );
    assert!(daemon().seen().readings.is_empty());
    let empty = FakeDaemon::start(Script {
        metrics: metrics(),
        ..Script::default()
    });
    let outcome = program::run(&empty, ["metrics", "--service", "gone"]);
    assert_eq!(outcome.code, Some(3));
    assert!(
        outcome.stderr.contains("no readings of the service \"gone\""),
        "{}",
        outcome.stderr
    );
    assert_eq!(program::run(&empty, ["metrics", "--last", "5m"]).code, Some(3));
    let refused = FakeDaemon::start(Script {
        metrics: metrics(),
        readings: Err(Status::permission_denied("user 7 may not read from the profiler")),
        ..Script::default()
    });
    assert_eq!(program::run(&refused, ["metrics"]).code, Some(4));
    for wrong in [
        &["metrics", "--watch", "--last", "1m"][..],
        &["metrics", "--interval", "2s"],
        &["metrics", "--list", "--pid", "1"],
        &["metrics", "--pid", "1", "--service", "x"],
        &["metrics", "--scope", "dream"],
    ] {
        assert_eq!(program::run(&daemon(), wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_stream_is_shown_until_it_ends() {
    let message = |readings| WatchReadingsResponse { time: time(), readings };
    let script = Script {
        metrics: metrics(),
        reading_stream: Ok(vec![message(readings()), message(Vec::new())]),
        ..Script::default()
    };
    let daemon = FakeDaemon::start(script.clone());
    let outcome = program::run(&daemon, ["metrics", "--watch", "--interval", "5s"]).expect_success();
    fixture::compare("metrics-watch.txt", outcome.text());
    assert_eq!(daemon.seen().readings[0].step, Some(Duration::from_secs(5)));
    let outcome = program::run(&daemon, ["metrics", "--watch", "--json"]).expect_success();
    let lines: Vec<Value> = outcome
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["readings"], serde_json::json!([]));
    let broken = FakeDaemon::start(Script {
        reading_stream: Err(Status::resource_exhausted("16 streams of readings are in progress")),
        ..script
    });
    let outcome = program::run(&broken, ["metrics", "--watch"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("16 streams"), "{}", outcome.stderr);
}

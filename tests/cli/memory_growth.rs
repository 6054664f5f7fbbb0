//! `memory growth`: the verdicts for people and as JSON.

use profiler_proto::v1::{
    GrowthPace, ListGrowthRequest, ListGrowthResponse, MemoryGrowth, MemoryRoom, MemoryTrend, RoomLimit, Scope, Subject,
};
use prost_types::Duration;
use serde_json::Value;
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    fixture,
    messages::HOSTILE,
    program,
};

const MIB: f64 = (1 << 20) as f64;

fn span(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn service(name: &str) -> Option<Subject> {
    Some(Subject {
        scope: Scope::Service.into(),
        name: name.to_owned(),
        ..Subject::default()
    })
}

fn process(pid: u32, name: &str) -> Option<Subject> {
    Some(Subject {
        scope: Scope::Process.into(),
        pid,
        name: name.to_owned(),
        service: "checkout".to_owned(),
        ..Subject::default()
    })
}

fn verdict(subject: Option<Subject>, trend: MemoryTrend, mib_per_hour: [f64; 3]) -> MemoryGrowth {
    let [low, bytes_per_hour, high] = mib_per_hour.map(|mib| mib * MIB);
    MemoryGrowth {
        subject,
        trend: trend.into(),
        held_bytes: 700 << 20,
        pace: Some(GrowthPace {
            bytes_per_hour,
            low,
            high,
            span: span(5400),
        }),
        certain_bytes_per_hour: if trend == MemoryTrend::Growing { low } else { 0.0 },
        followed: span(7200),
        room: None,
    }
}

fn verdicts() -> Vec<MemoryGrowth> {
    let growing = verdict(service("checkout"), MemoryTrend::Growing, [55.0, 60.0, 66.0]);
    let shrinking = verdict(process(4300, HOSTILE), MemoryTrend::Shrinking, [-12.0, -10.0, -9.0]);
    vec![
        MemoryGrowth {
            room: Some(MemoryRoom {
                limit: RoomLimit::ControlGroup.into(),
                bytes: 300 << 20,
                lasts: span(18_000),
                lasts_at_least: span(16_320),
            }),
            ..growing.clone()
        },
        MemoryGrowth {
            pace: None,
            followed: span(600),
            ..verdict(service("mail"), MemoryTrend::NotEnoughData, [0.0; 3])
        },
        MemoryGrowth {
            subject: process(4242, "uvicorn"),
            room: Some(MemoryRoom {
                limit: RoomLimit::Host.into(),
                bytes: 30 << 40,
                lasts: span(400 * 86_400),
                lasts_at_least: span(380 * 86_400),
            }),
            ..growing
        },
        shrinking,
        verdict(process(4301, "worker"), MemoryTrend::Steady, [-1.0, 0.0, 1.0]),
    ]
}

fn daemon(growth: Vec<MemoryGrowth>) -> FakeDaemon {
    FakeDaemon::start(Script {
        growth: Ok(ListGrowthResponse { time: None, growth }),
        ..Script::default()
    })
}

#[test]
fn verdicts_for_people() {
    let daemon = daemon(verdicts());
    let outcome = program::run(&daemon, ["memory", "growth"]).expect_success();
    fixture::compare("memory-growth.txt", outcome.text());
    assert!(!outcome.text().contains("worker"), "it is steady");
    let outcome = program::run(&daemon, ["memory", "growth", "--service", "checkout"]).expect_success();
    assert!(outcome.text().contains("4301 worker") && outcome.text().contains("steady"));
    let outcome = program::run(&daemon, ["memory", "growth", "--pid", "4301"]).expect_success();
    assert!(outcome.text().contains("4301 worker"));
    let asked = |service: &str, pid| ListGrowthRequest {
        service: service.to_owned(),
        pid,
    };
    assert_eq!(
        daemon.seen().growths,
        [asked("", 0), asked("checkout", 0), asked("", 4301)]
    );
}

#[test]
fn verdicts_as_json() {
    let daemon = daemon(verdicts());
    let shown = |arguments: &[&str]| -> Vec<Value> {
        let arguments = [&["memory", "growth", "--json"], arguments].concat();
        let outcome = program::run(&daemon, arguments).expect_success();
        let document: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        document["growth"].as_array().unwrap().clone()
    };
    let all = shown(&["--all"]);
    assert_eq!((all.len(), shown(&[]).len()), (5, 4));
    let [checkout, mail, uvicorn, evil, _] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(
        (&checkout["scope"], &checkout["subject"]),
        (&"service".into(), &"checkout".into())
    );
    assert_eq!(
        (&checkout["trend"], &checkout["held_bytes"]),
        (&"growing".into(), &(700 << 20).into())
    );
    assert_eq!(checkout["certain_bytes_per_hour"], 55.0 * MIB);
    assert_eq!(checkout["pace"]["high"], 66.0 * MIB);
    assert_eq!(
        (&checkout["room"]["limit"], &checkout["room"]["lasts_seconds"]),
        (&"cgroup".into(), &18_000.0.into())
    );
    assert!(checkout.get("pid").is_none() && checkout.get("service").is_none());
    assert_eq!(
        (&mail["trend"], &mail["pace"]),
        (&"not_enough_data".into(), &Value::Null)
    );
    assert_eq!(
        (&uvicorn["pid"], &uvicorn["room"]["limit"]),
        (&4242.into(), &"host".into())
    );
    assert_eq!(
        (&evil["subject"], &evil["trend"]),
        (&HOSTILE.into(), &"shrinking".into())
    );
}

#[test]
fn no_verdicts_have_their_exit_code() {
    for (arguments, of_whom) in [
        (&["--pid", "4242"][..], "process 4242"),
        (&["--service", "checkout"], "checkout"),
        (&[], ""),
    ] {
        let outcome = program::run(&daemon(Vec::new()), [&["memory", "growth"], arguments].concat());
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(of_whom), "{}", outcome.stderr);
    }
    let refused = FakeDaemon::start(Script {
        growth: Err(Status::permission_denied("user 1 may not read")),
        ..Script::default()
    });
    let outcome = program::run(&refused, ["memory", "growth"]);
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.stderr.contains("user 1 may not read"), "{}", outcome.stderr);
    let outcome = program::run(&refused, ["memory", "growth", "-p", "1", "-s", "checkout"]);
    assert_eq!(outcome.code, Some(2));
}

//! `top`: functions, lines and services for people and as JSON, and what is asked of the daemon for them.

use std::time::{Duration, SystemTime};

use profiler_proto::v1::{Profile, ProfiledProcess, profile_selector::Target};
use serde_json::Value;
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    fixture,
    messages::{self, HOSTILE, PID},
    program,
};

fn daemon(profile: Profile) -> FakeDaemon {
    FakeDaemon::start(Script {
        profile: Ok(profile),
        ..Script::default()
    })
}

/// The samples of the fixtures, and some of a process without a service whose names are hostile.
fn host() -> Profile {
    let mut profile = messages::profile();
    let hostile = profile.strings.len() as i32;
    profile.strings.push(HOSTILE.repeat(20));
    let (frame, process) = (profile.frames.len() as i32, profile.processes.len() as i32);
    profile.frames.push(profiler_proto::v1::Frame {
        function: hostile.try_into().unwrap(),
        module: hostile.try_into().unwrap(),
        file: hostile.try_into().unwrap(),
        line: 7,
        ..profile.frames[0]
    });
    profile.processes.push(ProfiledProcess {
        pid: 7,
        name: HOSTILE.to_owned(),
        service: String::new(),
        ..profile.processes[0].clone()
    });
    profile.nodes.push(profiler_proto::v1::Node {
        parent: -1,
        frame: frame.try_into().unwrap(),
        process: process.try_into().unwrap(),
        self_samples: 3,
    });
    profile
}

#[test]
fn functions_for_people() {
    let daemon = daemon(host());
    let outcome = program::run(&daemon, ["top"]).expect_success();
    fixture::compare("top.txt", outcome.text());
    let queries = daemon.seen().queries;
    let selector = &queries[0].selector;
    assert_eq!(selector.target, Some(Target::Everything(true)));
    assert_eq!(selector.end_time, None);
    let start = SystemTime::try_from(selector.start_time.unwrap()).unwrap();
    let ago = SystemTime::now().duration_since(start).unwrap();
    assert!(
        ago >= Duration::from_secs(60) && ago < Duration::from_secs(600),
        "{ago:?}"
    );
}

#[test]
fn lines_and_services_for_people() {
    let daemon = daemon(host());
    let lines = program::run(
        &daemon,
        ["top", "--pid", "4242", "--by", "line", "-n", "2", "--last", "10m"],
    )
    .expect_success();
    fixture::compare("top-lines.txt", lines.text());
    let services = program::run(&daemon, ["top", "--all", "--by", "service"]).expect_success();
    fixture::compare("top-services.txt", services.text());
    let of_service = program::run(&daemon, ["top", "--service", "checkout.service"]).expect_success();
    assert!(
        of_service.text().starts_with("service checkout.service: "),
        "{}",
        of_service.text()
    );
    let targets: Vec<_> = daemon
        .seen()
        .queries
        .into_iter()
        .map(|query| query.selector.target.unwrap())
        .collect();
    let expected = [
        Target::Pid(PID),
        Target::Everything(true),
        Target::Service("checkout.service".to_owned()),
    ];
    assert_eq!(targets, expected);
}

#[test]
fn as_json() {
    let daemon = daemon(host());
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&program::run(&daemon, arguments).expect_success().stdout).unwrap()
    };
    let document = json(&["top", "--json", "-n", "1"]);
    assert_eq!(
        (&document["samples"], &document["by"]),
        (&68.into(), &"function".into())
    );
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["function"], &rows[0]["self_samples"]),
        (&"sum".into(), &40.into())
    );
    assert_eq!(rows[0]["kind"], "inlined");
    let cpus = rows[0]["self_cpus"].as_f64().unwrap();
    assert!((cpus - 40.0 * 0.010_101_010 / 60.0).abs() < 1e-9, "{cpus}");
    let document = json(&["top", "--json", "--by", "service"]);
    let expected = serde_json::json!([
        {"kind": "service", "name": "checkout.service", "processes": 1, "samples": 65, "cpus": document["rows"][0]["cpus"]},
        {"kind": "program", "name": HOSTILE, "processes": 1, "samples": 3, "cpus": document["rows"][1]["cpus"]},
    ]);
    assert_eq!(document["rows"], expected);
}

#[test]
fn watching_ends_with_the_daemon() {
    let watched = daemon(host());
    let mut command = program::command(&watched);
    command.args(["top", "--watch", "--json", "--interval", "10ms", "--pid", "4242"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..3 {
        let document: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(document["samples"], 68);
    }
    drop(watched);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // For people, with an empty line between.
    let broken = FakeDaemon::start(Script {
        profile: Err(Status::unavailable("nothing is sampled")),
        ..Script::default()
    });
    assert_eq!(program::run(&broken, ["top", "--watch"]).code, Some(1));
}

#[test]
fn nothing_is_told() {
    let empty = daemon(messages::empty_profile());
    for arguments in [&["top"][..], &["top", "--pid", "4242"], &["top", "--json"]] {
        let outcome = program::run(&empty, arguments);
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        assert!(outcome.stdout.is_empty());
    }
    let without = daemon(host());
    for wrong in [
        &["top", "--pid", "1", "--service", "x"][..],
        &["top", "--pid", "1", "--all"],
        &["top", "-n", "0"],
        &["top", "--interval", "1s"],
        &["top", "--by", "thread"],
    ] {
        assert_eq!(program::run(&without, wrong).code, Some(2), "{wrong:?}");
    }
}

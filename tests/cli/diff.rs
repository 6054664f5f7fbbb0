//! `diff`: what is asked, and how the answer is shown.

use std::{fs, time::Duration};

use profiler_proto::v1::{
    Change, ChangeDirection, ChangeTest, CompareMeasure, CompareProfilesRequest, CompareProfilesResponse,
    ComparedFunction, ComparedParty, ComparedSpan, Comparison, DifferenceNode, Frame, FrameKind, ProfiledProcess,
    Quality, compared_party::Party, profile_selector::Target,
};
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    fixture,
    messages::HOSTILE,
    program,
};

fn change(before: f64, after: f64, is_significant: bool) -> Option<Change> {
    let direction = match is_significant {
        false => ChangeDirection::Unspecified,
        true if after > before => ChangeDirection::Grew,
        true => ChangeDirection::Shrank,
    };
    let (low, high) = (after - before - 0.02, after - before + 0.02);
    Some(Change {
        before,
        after,
        direction: direction.into(),
        test: Some(ChangeTest {
            low,
            high,
            p_value: if is_significant { 0.000_1 } else { 0.6 },
        }),
    })
}

fn side(second: i64, samples: u64) -> Option<ComparedSpan> {
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    Some(ComparedSpan {
        start_time: time(1_772_366_400 + second),
        end_time: time(1_772_366_460 + second),
        length: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        blocks: 12,
        quality: Some(Quality {
            samples,
            rooted_samples: samples,
            user_frames: samples,
            named_user_frames: samples,
            ..Quality::default()
        }),
    })
}

/// A process in which `burn` came up, `old` went away, and the rest stayed.
fn comparison() -> Comparison {
    let strings = ["", "main", "burn", "/srv/app/burn.py", "old", "steady", "svc", HOSTILE];
    let frame = |kind: FrameKind, function, module, file| Frame {
        kind: kind.into(),
        function,
        module,
        file,
        line: 0,
    };
    let main = frame(FrameKind::Native, 1, 6, 0);
    let burn = frame(FrameKind::Python, 2, 6, 3);
    let old = frame(FrameKind::Native, 4, 6, 0);
    let hostile = frame(FrameKind::Native, 7, 7, 0);
    let steady = frame(FrameKind::Native, 5, 6, 0);
    let function = |frame: Frame, own, total| ComparedFunction {
        party: None,
        frame: Some(frame),
        own,
        total,
    };
    let node = |parent, frame, own_before, own_after, total| DifferenceNode {
        parent,
        frame,
        party: None,
        own_before,
        own_after,
        total,
    };
    Comparison {
        measure: CompareMeasure::Cores.into(),
        before: side(0, 2_970),
        after: side(60, 3_960),
        needed_blocks: 3,
        level: 0.05,
        whole: change(0.5, 0.667, true),
        smallest_share: Some(0.031),
        parties: vec![ComparedParty {
            party: Some(Party::Process(ProfiledProcess {
                pid: 4242,
                start_time: None,
                name: "checkout".to_owned(),
                service: "shop".to_owned(),
            })),
            change: change(0.5, 0.667, true),
        }],
        functions: vec![
            function(burn, change(0.0, 0.25, true), change(0.0, 0.25, true)),
            function(old, change(0.1, 0.0, true), change(0.1, 0.0, true)),
            function(hostile, change(0.02, 0.06, true), change(0.02, 0.06, true)),
            function(main, change(0.0, 0.0, false), change(0.5, 0.667, true)),
            function(steady, change(0.38, 0.357, false), change(0.38, 0.357, false)),
        ],
        strings: strings.map(str::to_owned).to_vec(),
        frames: vec![main, burn, old, hostile, steady],
        nodes: vec![
            node(-1, 0, 0.0, 0.0, change(0.5, 0.667, true)),
            node(0, 1, 0.0, 0.25, change(0.0, 0.25, true)),
            node(0, 2, 0.1, 0.0, change(0.1, 0.0, true)),
            node(0, 3, 0.02, 0.06, change(0.02, 0.06, true)),
            node(0, 4, 0.38, 0.357, change(0.38, 0.357, false)),
        ],
        cut_samples: 0,
    }
}

fn daemon(comparison: Comparison) -> FakeDaemon {
    FakeDaemon::start(Script {
        comparison: Ok(CompareProfilesResponse {
            comparison: Some(comparison),
        }),
        ..Script::default()
    })
}

fn seconds(time: Option<Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

fn asked(arguments: &[&str]) -> CompareProfilesRequest {
    let daemon = daemon(comparison());
    program::run(&daemon, arguments).expect_success();
    daemon.seen().comparisons.remove(0)
}

#[test]
fn for_people() {
    let outcome = program::run(&daemon(comparison()), ["diff", "--pid", "4242"]).expect_success();
    fixture::compare("diff.txt", outcome.text());
    assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
}

#[test]
fn nothing_found_says_what_would_have_been() {
    let mut same = comparison();
    for function in &mut same.functions {
        function.own = change(0.3, 0.31, false);
        function.total = change(0.3, 0.31, false);
    }
    let outcome = program::run(&daemon(same), ["diff", "--service", "shop"]).expect_success();
    let text = outcome.text();
    assert!(
        text.contains("no change found; 3.1 % of the CPU would have been seen"),
        "{text}"
    );
    assert!(!text.contains("FUNCTION"), "{text}");
    let mut short = comparison();
    short.after.as_mut().unwrap().blocks = 2;
    let outcome = program::run(&daemon(short), ["diff", "--service", "shop"]).expect_success();
    let expected = "not enough to compare: 12 blocks before and 2 blocks after, and each side needs 3";
    assert!(outcome.text().contains(expected), "{}", outcome.text());
}

#[test]
fn as_json() {
    let outcome = program::run(&daemon(comparison()), ["diff", "--pid", "4242", "--json"]).expect_success();
    let document: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(document["measure"], "cores");
    assert_eq!(document["enough"], true);
    assert_eq!(document["smallest_share"], 0.031);
    let burn = &document["functions"][0];
    assert_eq!(
        (burn["function"].as_str(), burn["file"].as_str()),
        (Some("burn"), Some("/srv/app/burn.py"))
    );
    assert_eq!(
        (burn["own"]["direction"].as_str(), burn["own"]["after"].as_f64()),
        (Some("grew"), Some(0.25))
    );
    assert_eq!(burn["own"]["interval"], serde_json::json!([0.23, 0.27]));
    assert_eq!(document["functions"][4]["own"]["direction"], Value::Null);
    assert_eq!(document["parties"][0]["pid"], 4242);
    assert_eq!(document["before"]["samples"], 2_970);
}

#[test]
fn as_a_picture_and_as_stacks() {
    let daemon = daemon(comparison());
    let picture = daemon.directory().join("changed.svg");
    let arguments = ["diff", "--pid", "4242", "-o", picture.to_str().unwrap()];
    let outcome = program::run(&daemon, arguments).expect_success();
    assert!(
        outcome.stderr.contains("wrote ") && outcome.stderr.contains("before: 2,970 samples"),
        "{}",
        outcome.stderr
    );
    let svg = fs::read_to_string(picture).unwrap();
    assert!(
        svg.contains("checkout (pid 4242): what changed") && svg.contains("class=\"g3\""),
        "{svg}"
    );
    assert!(svg.contains("gone: 10.00 % of a CPU before: main → old"));
    assert!(!svg.contains('\x1b'));
    let outcome = program::run(&daemon, ["diff", "--pid", "4242", "--format", "folded"]).expect_success();
    let text = outcome.text();
    assert!(
        text.contains("checkout (pid 4242);main;burn (app/burn.py) 0 250000\n"),
        "{text}"
    );
    assert!(text.contains("checkout (pid 4242);main;old 100000 0\n"), "{text}");
}

#[test]
fn spans_are_asked_for_as_written() {
    let request = asked(&[
        "diff",
        "--service",
        "shop",
        "--before",
        "5m..3m",
        "--after",
        "1m..",
        "--by",
        "share",
    ]);
    assert_eq!(request.measure(), CompareMeasure::Share);
    let (before, after) = (request.before.unwrap(), request.after.unwrap());
    assert_eq!(before.target, Some(Target::Service("shop".to_owned())));
    assert_eq!(seconds(before.end_time) - seconds(before.start_time), 120);
    assert_eq!(seconds(after.start_time) - seconds(before.end_time), 120);
    assert_eq!(after.end_time, None);
    // By default the last minute and the one before it.
    let request = asked(&["diff", "--host", "--gil"]);
    let (before, after) = (request.before.unwrap(), request.after.unwrap());
    assert_eq!(after.target, Some(Target::Everything(true)));
    assert_eq!(before.end_time, after.start_time);
    assert_eq!(seconds(before.end_time) - seconds(before.start_time), 60);
    assert!(request.view.unwrap().gil);
}

#[test]
fn what_cannot_be_asked() {
    let daemon = daemon(comparison());
    for (arguments, message) in [
        (&["diff"][..], "required"),
        (&["diff", "--pid", "1", "--host"], "cannot be used with"),
        (&["diff", "--pid", "1", "--before", "5m"], "expected two times"),
        (
            &["diff", "--pid", "1", "--before", "3m..5m"],
            "--before ends before it begins",
        ),
        (
            &["diff", "--pid", "1", "--before", "5m..30s"],
            "--before and --after overlap",
        ),
        (&["diff", "--pid", "1", "-o", "x.png"], "tells no format"),
    ] {
        let outcome = program::run(&daemon, arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{arguments:?}: {}", outcome.stderr);
    }
    assert!(daemon.seen().comparisons.is_empty());
}

#[test]
fn what_goes_wrong_has_its_code() {
    let mut empty = comparison();
    for side in [&mut empty.before, &mut empty.after] {
        side.as_mut().unwrap().quality = None;
    }
    let outcome = program::run(&daemon(empty), ["diff", "--pid", "7"]);
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    let mut broken = comparison();
    broken.nodes[1].frame = 99;
    let outcome = program::run(&daemon(broken), ["diff", "--pid", "7"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("not valid: node 1 refers to frame 99"),
        "{}",
        outcome.stderr
    );
    let refusing = FakeDaemon::start(Script {
        comparison: Err(Status::not_found("there is no process 7")),
        delay: Duration::from_millis(1),
        ..Script::default()
    });
    let outcome = program::run(&refusing, ["diff", "--pid", "7"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (Some(1), "error: there is no process 7\n")
    );
}

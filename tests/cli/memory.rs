//! `memory census`: what is asked of the daemon, and the answers for people and as JSON.

use std::fs;

use profiler_proto::v1::{
    Census, CensusDifference, CensusRequest, CensusResponse, HolderChain, TypeChange, TypeCount, TypeHolders,
};
use prost_types::{Duration, Timestamp};
use serde_json::Value;
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    fixture,
    messages::HOSTILE,
    program::{self, Outcome},
};

fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn count(name: &str, objects: u64, bytes: u64) -> TypeCount {
    TypeCount {
        name: name.to_owned(),
        objects,
        bytes,
    }
}

fn census() -> Census {
    Census {
        pid: 4242,
        time: time(1_772_366_400),
        python_version: "3.12.1".to_owned(),
        types: vec![
            count("dict", 60_713, 5_600_000),
            count("str", 61_002, 4_000_000),
            count(HOSTILE, 3, 96),
        ],
        unlisted_types: 41,
        unlisted_objects: 9_000,
        unlisted_bytes: 700_000,
        further_objects: 2,
        further_bytes: 128,
        other_blocks: 63_000,
        other_bytes: 9_000_000,
        pools: 1_200,
        torn_pools: 1,
        partial: vec![format!("2 pools are swapped out {HOSTILE}")],
        memory_bytes_read: 20 << 20,
        pagemap_bytes_read: 40_000,
        duration: Some(Duration {
            seconds: 0,
            nanos: 210_000_000,
        }),
        busy: Some(Duration {
            seconds: 0,
            nanos: 55_000_000,
        }),
    }
}

fn difference() -> CensusDifference {
    let change = |name: &str, objects: [u64; 2], bytes: [u64; 2]| TypeChange {
        name: name.to_owned(),
        objects_before: objects[0],
        objects_after: objects[1],
        bytes_before: bytes[0],
        bytes_after: bytes[1],
    };
    let chain = |steps: &[&str], objects, rooted| HolderChain {
        steps: steps.iter().map(ToString::to_string).collect(),
        objects,
        rooted,
    };
    CensusDifference {
        earlier_time: time(1_772_366_370),
        changes: vec![
            change("dict", [713, 60_713], [60_000, 5_600_000]),
            change(HOSTILE, [0, 3], [0, 96]),
            change("list", [90, 70], [5_000, 4_000]),
        ],
        unlisted_changes: 7,
        other_blocks_before: 3_000,
        other_blocks_after: 63_000,
        other_bytes_before: 800_000,
        other_bytes_after: 9_000_000,
        holders: vec![TypeHolders {
            name: "dict".to_owned(),
            searched: 64,
            without_holder: 2,
            chains: vec![
                chain(&["module app, global LEAK", "list of 60000 items"], 60, true),
                chain(&[&format!("dict of 9 items{HOSTILE}")], 2, false),
            ],
        }],
    }
}

fn daemon(difference: Option<CensusDifference>) -> FakeDaemon {
    FakeDaemon::start(Script {
        census: Ok(CensusResponse {
            census: Some(census()),
            difference,
        }),
        ..Script::default()
    })
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap()
}

#[test]
fn censuses_for_people() {
    let arguments = ["memory", "census", "--pid", "4242"];
    let outcome = program::run(&daemon(None), arguments).expect_success();
    fixture::compare("census.txt", outcome.text());
    let daemon = daemon(Some(difference()));
    let outcome = program::run(&daemon, arguments.into_iter().chain(["--diff", "--top", "3"])).expect_success();
    fixture::compare("census-diff.txt", outcome.text());
    let asked = CensusRequest {
        pid: 4242,
        compare: true,
        holders: true,
        most_types: 3,
    };
    assert_eq!(daemon.seen().censuses, [asked]);
}

#[test]
fn a_census_as_json_can_be_compared_with_another() {
    let first = daemon(None);
    let before = program::run(&first, ["memory", "census", "-p", "4242", "--json"]).expect_success();
    assert_eq!(first.seen().censuses[0].most_types, 0);
    let document = json(&before);
    assert_eq!(document["types"][2]["name"], HOSTILE);
    assert_eq!(document["unlisted_types"], 41);
    assert!(document.get("difference").is_none());
    let path = |name: &str| first.directory().join(name);
    fs::write(path("before.json"), &before.stdout).unwrap();
    let mut after = document;
    after["types"][0]["objects"] = 60_720.into();
    after["types"][0]["bytes"] = 5_700_000.into();
    fs::write(path("after.json"), after.to_string()).unwrap();
    let compare = ["memory", "census", "--compare", "before.json", "after.json"];
    let outcome = program::run(&first, compare).expect_success();
    assert!(outcome.text().contains("+97.7 KiB"), "{}", outcome.text());
    let of_before = "the census before did not show all: 2 pools are swapped out";
    assert!(outcome.text().contains(of_before), "{}", outcome.text());
    assert!(!outcome.text().contains("not all types"), "both list the same");
    let outcome = program::run(&first, compare.into_iter().chain(["--json"])).expect_success();
    let changes = &json(&outcome)["difference"]["changes"];
    assert_eq!(changes.as_array().unwrap().len(), 1);
    assert_eq!(
        (&changes[0]["name"], &changes[0]["objects_after"]),
        (&"dict".into(), &60_720.into())
    );
    // What the census before may have had without listing it is not new.
    after["types"][1]["name"] = "Order".into();
    fs::write(path("after.json"), after.to_string()).unwrap();
    let outcome = program::run(&first, compare).expect_success();
    let not_compared = "not all types of the census after are compared: the one before does not list 1 of them";
    assert!(
        outcome.text().contains(not_compared) && outcome.text().contains("the largest: Order with 3.8 MiB"),
        "{}",
        outcome.text()
    );
    let outcome = program::run(&first, compare.into_iter().chain(["--json"])).expect_success();
    let changes = json(&outcome)["difference"]["changes"].clone();
    assert_eq!(
        (changes.as_array().unwrap().len(), &changes[0]["name"]),
        (1, &"dict".into())
    );
    // Nothing more was asked of the daemon.
    assert_eq!(first.seen().censuses.len(), 1);
    fs::write(path("after.json"), "{}").unwrap();
    let outcome = program::run(&first, compare);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("cannot read after.json"), "{}", outcome.stderr);
}

#[test]
fn a_difference_as_json_has_its_holders() {
    let daemon = daemon(Some(difference()));
    let outcome = program::run(&daemon, ["memory", "census", "-p", "4242", "--diff", "--json"]).expect_success();
    let document = json(&outcome);
    let holders = &document["difference"]["holders"][0];
    assert_eq!(holders["chains"][0]["steps"][0], "module app, global LEAK");
    assert_eq!(
        (&holders["without_holder"], &holders["chains"][0]["rooted"]),
        (&2.into(), &true.into())
    );
}

#[test]
fn what_cannot_be_told_has_its_exit_code() {
    let outcome = program::run(&daemon(None), ["memory", "census", "-p", "4242", "--diff"]);
    assert_eq!(outcome.code, Some(3));
    assert!(
        outcome.stderr.contains("kept no census of process 4242"),
        "{}",
        outcome.stderr
    );
    for (status, code) in [
        (Status::failed_precondition("process 4242 runs no Python"), 1),
        (Status::not_found("there is no process 4242"), 1),
        (Status::permission_denied("user 1 may not profile"), 4),
    ] {
        let daemon = FakeDaemon::start(Script {
            census: Err(status.clone()),
            ..Script::default()
        });
        let outcome = program::run(&daemon, ["memory", "census", "-p", "4242"]);
        assert_eq!(outcome.code, Some(code));
        assert!(outcome.stderr.contains(status.message()), "{}", outcome.stderr);
    }
    for arguments in [
        &["memory", "census"][..],
        &["memory", "census", "-p", "1", "--diff", "--watch", "1s"],
        &["memory", "census", "-p", "1", "--compare", "a", "b"],
        &["memory", "census", "-p", "1", "--top", "0"],
    ] {
        assert_eq!(program::run(&daemon(None), arguments).code, Some(2), "{arguments:?}");
    }
}

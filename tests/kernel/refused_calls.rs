//! bpf(2) refused midway, by a filter that allows the first calls: the daemon says what failed, stays, and goes on where it can.

use std::time::Duration;

use profiler_tests::{
    daemon::DaemonOptions,
    programs::{Running, wait_for},
};
use serde_json::Value;

use crate::{FAST_HZ, SAMPLES_WITHIN, host, only, profile_once, start};

/// Calls of the daemon's start after which all others are refused: before it has any map, at the types of the programs, and among the programs.
const REFUSED_AFTER: [u32; 3] = [0, 8, 40];
/// How long the daemon may take to try again what was refused.
const TRIED_AGAIN_WITHIN: Duration = Duration::from_secs(40);

#[test]
fn a_start_that_is_refused_at_any_call_says_which_and_stays_up() {
    let Some(host) = host() else { return };
    let refuse = host.rust("refuse_bpf");
    if !can_filter(&refuse) {
        return;
    }
    let config = only(FAST_HZ, "nothing-of-this-name");
    let mut told = Vec::new();
    for calls in REFUSED_AFTER {
        let calls = calls.to_string();
        let prefix = [refuse.to_str().unwrap(), &calls, "/nonexistent"];
        let daemon = host.spawn(DaemonOptions::new(&config).through(&prefix)).ready();
        let status = daemon.status();
        let sampling = part(&status, "sampling");
        println!("after {calls}: {sampling}");
        assert!(
            sampling["state"] == "unsupported" || sampling["state"] == "failed",
            "after {calls}: {sampling}"
        );
        let reason = sampling["reason"].as_str().unwrap();
        assert!(reason.contains("Operation not permitted"), "after {calls}: {sampling}");
        assert_eq!(part(&status, "api")["state"], "active", "{status}");
        assert_eq!(daemon.cli(&["ps"]).code, Some(0), "the rest answers");
        told.push(reason.to_owned());
    }
    told.dedup();
    assert!(told.len() > 1, "each says what was refused: {told:?}");
}

#[test]
fn what_is_refused_while_it_runs_is_told_and_tried_again() {
    let Some(host) = host() else { return };
    let refuse = host.rust("refuse_bpf");
    if !can_filter(&refuse) {
        return;
    }
    let program = host.rust("deep");
    let file = host.path("refused");
    let prefix = [refuse.to_str().unwrap(), "1000000000", file.to_str().unwrap()];
    let config = only(FAST_HZ, "deep");
    let daemon = host.spawn(DaemonOptions::new(&config).through(&prefix)).ready();
    let first = start(&program, &[]);
    daemon.wait_for_samples(first.pid(), 200, SAMPLES_WITHIN);

    std::fs::write(&file, "").unwrap();
    let second = start(&program, &[]);
    let refused = wait_for("refusal", TRIED_AGAIN_WITHIN, || {
        let process = daemon.process(second.pid());
        let reason = process["watch_reason"].as_str()?.to_owned();
        (process["watch_state"] == "not_watched" && reason.contains("processes")).then_some(reason)
    });
    println!("{refused}");
    assert!(
        refused.contains("Operation not permitted"),
        "as the kernel said it: {refused}"
    );
    assert!(!refused.contains("full"), "there is room: {refused}");
    wait_for("count of what was refused", TRIED_AGAIN_WITHIN, || {
        let lost = &daemon.status()["sampling"]["lost"];
        (lost["walker_entry_refused"].as_u64() > Some(0)).then_some(())
    });
    let before = daemon.process(first.pid())["samples"].as_u64().unwrap();
    daemon.wait_for_samples(first.pid(), before + 200, SAMPLES_WITHIN);

    std::fs::remove_file(&file).unwrap();
    wait_for("another attempt", TRIED_AGAIN_WITHIN, || {
        (daemon.process(second.pid())["watch_state"] == "watched").then_some(())
    });
    profile_once(&daemon, second.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
}

/// Whether the kernel lets a process answer for its calls; says so where it does not.
fn can_filter(refuse: &std::path::Path) -> bool {
    let mut command = std::process::Command::new(refuse);
    let (_running, ready) = Running::try_start(command.args(["0", "/nonexistent", "sh", "-c", "echo ready"]));
    if ready.is_none() {
        crate::skip("this kernel has no SECCOMP_RET_USER_NOTIF");
    }
    ready.is_some()
}

fn part<'a>(status: &'a Value, name: &str) -> &'a Value {
    let parts = status["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).unwrap()
}

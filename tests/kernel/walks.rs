//! Stacks whose shape is known: their depth, and frames that need more than a stack pointer.

use std::fs;

use crate::{FAST_HZ, host, only, profile::Stack, profile_once_known, skip, start};

/// Calls of `descend` below each other.
const DEPTH: usize = 400;

#[test]
fn deep_stacks_arrive_whole_by_bpf_loop() {
    if kernel_before(5, 17) {
        return skip("bpf_loop is of Linux 5.17");
    }
    check_deep("bpf_loop");
}

#[test]
fn deep_stacks_arrive_whole_by_for_each_map_elem() {
    check_deep("for_each_map_elem");
}

#[track_caller]
fn check_deep(walker_loop: &str) {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let config = only(FAST_HZ, "deep").replace("[targets]", &format!("walker_loop = \"{walker_loop}\"\n[targets]"));
    let daemon = host.daemon(&config);
    assert_eq!(daemon.status()["sampling"]["walker_loop"], walker_loop);
    // Below its depth before it is ready, so that every sample is of the same stack.
    let deep = start(&program, &[]);
    let profile = profile_once_known(&daemon, deep.pid(), 2_000);
    profile.assert_rooted(99.5);
    let busy = |stack: &Stack| stack.has("stay_busy");
    profile.assert_share("busy at the bottom", 99.0, |_| true, busy);
    profile.assert_share("all calls", 100.0, busy, |stack| {
        stack.count("descend") == DEPTH
            && stack.has_in_order(&["_start", "main", "deep::main", "descend", "stay_busy"])
            && stack.is_of_first_thread()
    });
    // What the runtime calls before `main` is the same each time, too.
    let depths = profile
        .stacks
        .iter()
        .filter(|stack| busy(stack))
        .map(|stack| stack.position("stay_busy"));
    let depths: Vec<_> = depths.collect();
    assert!(depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
}

#[test]
fn realigned_frames_are_walked_from_within_and_from_below() {
    let Some(host) = host() else { return };
    if !fs::read_to_string("/proc/cpuinfo").unwrap().contains("avx2") {
        return skip("this CPU has no AVX2");
    }
    let program = host.c("realigned", "realigned", &["-mavx2", "-mforce-drap"]);
    let daemon = host.daemon(&only(FAST_HZ, "realigned"));
    let realigned = start(&program, &[]);
    let profile = profile_once_known(&daemon, realigned.pid(), 4_000);
    profile.assert_rooted(99.0);
    for function in ["work_realigned", "work_with_stack_arguments"] {
        let called = |stack: &Stack| stack.has_in_order(&["_start", "main", "run", function]);
        profile.assert_share(function, 99.0, |stack| stack.has(function), called);
        let busy_itself = profile.count(|stack| stack.user_leaf().is_some_and(|frame| frame.is(function)));
        let busy_below = profile.count(|stack| stack.has_in_order(&[function, "spin_below"]));
        assert!(
            busy_itself > 100 && busy_below > 100,
            "{function}: {busy_itself} itself, {busy_below} below"
        );
    }
    profile.assert_share(
        "called from a realigned frame",
        99.0,
        |stack| stack.has("spin_below"),
        |stack| stack.has("work_realigned") || stack.has("work_with_stack_arguments"),
    );
}

/// Whether the running kernel is older than this release.
fn kernel_before(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) < (major, minor)
}

//! Processes that fork, execute, are watched on request, or do nothing.

use std::{thread, time::Duration};

use profiler_tests::programs::{Running, is_emulated, send_signal, wait_for};
use rustix::process::Signal;

use crate::{
    FAST_HZ, Profile, SAMPLES_WITHIN, host, only, only_line, profile::Stack, profile_of, profile_once_known,
    profile_when, record, start, wait_until_watched,
};

#[test]
fn work_before_and_after_fork_and_exec_belongs_to_its_process() {
    let Some(host) = host() else { return };
    let program = host.rust("forker");
    let daemon = host.daemon(&only(FAST_HZ, "forker"));
    let (parent, said) = Running::start_and_listen(&mut std::process::Command::new(program));
    let child: u32 = said[0].strip_prefix("child ").unwrap().parse().unwrap();
    profile_once_known(&daemon, child, 1_500);
    send_signal(child, Signal::USR1);
    // What was sampled of the program before is kept.
    let profile = profile_when(
        || Some(profile_of(&daemon, child)),
        |profile| profile.samples_of("work_after_exec") >= 1_500 && is_rooted_but_for_exec(profile),
    );
    assert!(profile.samples_of("work_after_exec") >= 1_500, "{}", profile.summary);
    assert_rooted_but_for_exec(&profile);
    let before_exec = |stack: &Stack| stack.has_in_order(&["_start", "main", "run_child", "work_in_child"]);
    let after_exec = |stack: &Stack| stack.has_in_order(&["_start", "main", "work_after_exec"]);
    assert!(profile.count(before_exec) >= 1_500, "{}", profile.summary);
    // Whole stacks: those after the fork and the exec are pending for some milliseconds.
    profile.assert_share("either work", 99.5, Stack::is_of_first_thread, |stack| {
        before_exec(stack) != after_exec(stack)
    });
    assert_eq!(
        profile.samples_of("work_in_parent"),
        0,
        "work of the parent in the child"
    );

    let profile = profile_when(|| Some(profile_of(&daemon, parent.pid())), is_rooted_but_for_exec);
    assert_rooted_but_for_exec(&profile);
    profile.assert_share("the parent's work", 99.5, Stack::is_of_first_thread, |stack| {
        stack.has_in_order(&["_start", "main", "work_in_parent"])
    });
    assert_eq!(
        profile.samples_of("work_in_child") + profile.samples_of("work_after_exec"),
        0
    );
}

/// Of what is asked of a process that forks and executes.
const ROOTED_PERCENT: f64 = 98.0;

fn is_rooted_but_for_exec(profile: &Profile) -> bool {
    let share = if is_emulated() {
        profile.rooted_share_once_known()
    } else {
        profile.rooted_share()
    };
    share >= ROOTED_PERCENT
}

/// After a fork and during an exec a process is pending for some milliseconds. An emulated kernel takes a good part of a
/// second for an exec, and what is left of that in a profile says nothing about us.
#[track_caller]
fn assert_rooted_but_for_exec(profile: &Profile) {
    if is_emulated() {
        profile.assert_rooted_once_known(ROOTED_PERCENT);
    } else {
        profile.assert_rooted(ROOTED_PERCENT);
    }
}

#[test]
fn a_program_in_c_is_watched_as_long_as_it_is_recorded() {
    let Some(host) = host() else { return };
    let program = host.c("plain", "plain", &[]);
    // Rust programs are discovered; this is none.
    let daemon = host.daemon(&format!("[sampling]\nhz = {FAST_HZ}\n"));
    let plain = start(&program, &["busy"]);
    wait_for("a look at a program that is not watched", SAMPLES_WITHIN, || {
        let process = daemon.process(plain.pid());
        (process["watch_state"] == "not_watched" && process["runtime"] == "native").then_some(())
    });
    let mut recording = daemon.cli_command();
    recording.args([
        "flamegraph",
        "--duration",
        "10s",
        "--format",
        "json",
        "-o",
        "-",
        "--pid",
    ]);
    let mut recording = Running::start_silent(recording.arg(plain.pid().to_string()));
    wait_for("watch", SAMPLES_WITHIN, || {
        let process = daemon.process(plain.pid());
        (process["watch_state"] == "watched" && process["watch_reason"] == "requested").then_some(())
    });
    let document = recording.line(SAMPLES_WITHIN).expect("a profile");
    recording.stop();
    let profile = crate::Profile::from_json(&serde_json::from_str(&document).unwrap());
    profile.assert_rooted_once_known(99.0);
    profile.assert_share("work", 99.5, Stack::is_of_first_thread, |stack| {
        stack.has_in_order(&["_start", "main", "work_in_c"])
    });
    wait_for("end of the watch", SAMPLES_WITHIN, || {
        (daemon.process(plain.pid())["watch_state"] == "not_watched").then_some(())
    });
    // And once more: what was let go is taken up again.
    let again = record(&daemon, plain.pid(), "10s");
    again.assert_rooted_once_known(99.0);
    assert!(again.samples_of("work_in_c") > 0);
}

#[test]
fn a_process_that_sleeps_has_no_samples() {
    let Some(host) = host() else { return };
    let program = host.c("plain", "plain", &[]);
    let idle = start(&program, &["idle"]);
    thread::sleep(Duration::from_millis(100));
    let daemon = host.daemon(&only(FAST_HZ, "plain"));
    wait_until_watched(&daemon, idle.pid());
    let pid = idle.pid().to_string();
    let output = daemon.cli(&["flamegraph", "--pid", &pid, "--last", "1m", "-o", "-"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(3), ""), "{output:?}");
    assert!(only_line(&output).contains("no samples"), "{output:?}");
    let output = daemon.cli(&["flamegraph", "--pid", &pid, "--duration", "1s", "-o", "-"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(3), ""), "{output:?}");
    let last = output.stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("no samples") && last.contains("used no CPU"),
        "{output:?}"
    );
}

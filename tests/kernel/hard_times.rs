//! Hard times: a daemon that is killed again and again, that is stopped, that has nowhere to write, or that the kernel refuses
//! what it needs. It comes back, or says what is missing, and leaves nothing behind.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    programs::{send_signal, wait_for},
};
use rustix::process::Signal;

use crate::{
    FAST_HZ, SAMPLES_WITHIN,
    churn::{of_service, storm},
    failed_parts, from_environment, host, only, profile_once, profile_once_known, start,
};

/// How often a daemon is killed, unless `PROFILER_TEST_KILLS` says otherwise.
const KILLS: u32 = 10;
/// How much later in its start each daemon is killed than the one before.
const KILL_STEP: Duration = Duration::from_millis(37);
/// Steps after which kills begin early again.
const KILL_STEPS: u32 = 20;
/// How long a daemon is stopped, unless `PROFILER_TEST_STOP_SECONDS` says otherwise.
const STOP_SECONDS: u32 = 10;

#[test]
fn daemons_killed_at_any_moment_leave_nothing() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let list = host.rust("bpf_programs");
    let deep = start(&program, &[]);
    let mut storm = start(&storm(&host, "forks", "hot_fork", &[]), &["forks"]);
    let config = only(FAST_HZ, "deep\", \"forks");
    let socket = host.path("killed.sock");
    let before = loaded(&list);
    for kill in 0..from_environment("PROFILER_TEST_KILLS", KILLS) {
        let mut daemon = host.spawn(DaemonOptions::new(&config).on_socket(&socket));
        thread::sleep(KILL_STEP * (kill % KILL_STEPS));
        daemon.kill();
    }
    // The kernel frees what nobody holds when its readers are through.
    wait_for("end of all programs", Duration::from_secs(20), || {
        loaded(&list).is_subset(&before).then_some(())
    });
    let next = host.spawn(DaemonOptions::new(&config).on_socket(&socket)).ready();
    assert!(!loaded(&list).is_subset(&before), "programs of a daemon are seen");
    let forks = of_service(&next, storm.pid(), "work_in_child", 500);
    println!("the storm: {}", forks.summary);
    storm.stop();
    profile_once(&next, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    assert_eq!(failed_parts(&next), [""; 0]);
}

#[test]
fn a_stopped_daemon_goes_on_and_counts_what_it_missed() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "deep"));
    daemon.wait_for_samples(deep.pid(), 500, SAMPLES_WITHIN);
    let before = daemon.status();
    let stopped = Instant::now();
    send_signal(daemon.pid(), Signal::STOP);
    let newcomer = start(&program, &[]);
    thread::sleep(Duration::from_secs(
        from_environment("PROFILER_TEST_STOP_SECONDS", STOP_SECONDS).into(),
    ));
    send_signal(daemon.pid(), Signal::CONT);
    for (which, pid) in [("known", deep.pid()), ("started meanwhile", newcomer.pid())] {
        let profile = profile_once(&daemon, pid, 500, |profile| profile.rooted_share() >= 99.0);
        println!("{which}:");
        profile.assert_rooted(99.0);
        assert!(profile.samples_of("stay_busy") > 0, "{which}: {}", profile.summary);
    }
    // The programs in the kernel went on. What they delivered is in the store, and what the rings did not hold is counted.
    let after = daemon.status();
    let grown = |section: &str, key: &str| {
        let of = |status: &serde_json::Value| status["sampling"][section][key].as_u64().unwrap_or_default();
        of(&after).saturating_sub(of(&before))
    };
    let (delivered, full) = (grown("run_outcomes", "delivered"), grown("run_outcomes", "ring_full"));
    println!(
        "{delivered} delivered, {full} found no room, in {:?}",
        stopped.elapsed()
    );
    assert!(delivered > 0, "{after}");
    assert_eq!(full, grown("lost", "ring_full"), "{after}");
    assert_eq!(failed_parts(&daemon), [""; 0]);
}

#[test]
fn without_room_to_write_it_samples_all_the_same() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let config = only(FAST_HZ, "deep");
    let state = host.path("state");
    std::fs::create_dir(&state).unwrap();
    let state_name = state.to_str().unwrap();
    // Mounted where only the daemon sees it, and gone with it.
    let mounted = |options: &str| format!("mount -t tmpfs -o size=64k{options} tmpfs {state_name} && exec \"$@\"");
    let full = mounted("").replace(
        "&&",
        &format!("&& (cat /dev/zero > {state_name}/full; true) 2>/dev/null &&"),
    );
    let read_only = mounted(",ro");
    for (name, script) in [("full", &full), ("read-only", &read_only)] {
        let prefix = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ];
        let options = DaemonOptions::new(&config).with_state_dir(&state).through(&prefix);
        assert_samples(name, &host.spawn(options).ready(), deep.pid());
    }
    // Below a file there can be no directory.
    let impossible = program.join("state");
    let options = DaemonOptions::new(&config).with_state_dir(&impossible);
    assert_samples("impossible", &host.spawn(options).ready(), deep.pid());
}

#[test]
fn a_kernel_that_refuses_halfway_is_told_with_the_capability() {
    let Some(host) = host() else { return };
    let config = only(FAST_HZ, "nothing-of-this-name");
    // Without the first no map is made, without the second maps are made and programs are refused.
    for (dropped, capability) in [("bpf", "CAP_BPF"), ("perfmon", "CAP_PERFMON")] {
        // The last stands for all others.
        let denied = [dropped, "sys_admin"];
        let daemon = host.spawn(DaemonOptions::new(&config).denied(&denied)).ready();
        let status = daemon.status();
        let parts = status["parts"].as_array().unwrap();
        let part = |name: &str| parts.iter().find(|part| part["name"] == name).unwrap();
        let sampling = part("sampling");
        assert!(
            sampling["state"] == "unsupported" || sampling["state"] == "failed",
            "{dropped}: {sampling}"
        );
        assert!(sampling.to_string().contains(capability), "{dropped}: {sampling}");
        assert_eq!(part("api")["state"], "active", "{dropped}: {status}");
        assert_eq!(daemon.cli(&["ps"]).code, Some(0), "the rest answers");
    }
}

#[track_caller]
fn assert_samples(name: &str, daemon: &Daemon, pid: u32) {
    let profile = profile_once_known(daemon, pid, 500);
    println!("{name}: {}", profile.summary);
    profile.assert_rooted(99.0);
    let sampling = daemon.status()["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["name"] == "sampling")
        .map(|part| part["state"].clone());
    assert_eq!(sampling, Some("active".into()), "{name}");
}

/// Everything of BPF in the kernel: kinds and ids.
fn loaded(list: &Path) -> BTreeSet<String> {
    let output = Command::new(list).arg("all").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

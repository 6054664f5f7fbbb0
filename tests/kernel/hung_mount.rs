//! A file system that does not answer, with a watched program on it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use profiler_tests::programs::{Running, wait_for};

use crate::{FAST_HZ, SAMPLES_WITHIN, host, only, profile_once, skip, start};

/// Longest answer of a daemon that does not wait for the file system, on a machine that others use as well.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// After this a thread that reads has been given up, and another works in its place.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(90);

#[test]
fn a_mount_that_hangs_stops_neither_samples_nor_answers_and_is_told() {
    let Some(host) = host() else { return };
    if !Path::new("/dev/fuse").exists() {
        skip("there is no FUSE in this kernel");
        return;
    }
    let program = host.rust("deep");
    let fixture = host.rust("hung_mount");
    let mount = host.path("mount");
    std::fs::create_dir(&mount).unwrap();
    let healthy = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "deep"));
    profile_once(&daemon, healthy.pid(), 100, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    let (server, said) = Running::start_and_listen(Command::new(&fixture).arg(&mount).arg(&program));
    let hung: u32 = said[0].parse().unwrap();
    let state = |daemon: &profiler_tests::daemon::Daemon| {
        let status = daemon.status();
        let parts = status["parts"].as_array().unwrap();
        parts
            .iter()
            .find(|part| part["name"] == "unwind_tables")
            .cloned()
            .unwrap()
    };
    let told = wait_for("word of the mount", GIVEN_UP_WITHIN, || {
        let asked = Instant::now();
        let state = state(&daemon);
        assert!(
            asked.elapsed() < ANSWERED_WITHIN,
            "an answer took {:?}",
            asked.elapsed()
        );
        (state["state"] == "failed").then(|| state["reason"].as_str().unwrap().to_owned())
    });
    println!("{told}");
    assert!(told.contains(&format!("process {hung}")), "{told}");
    // What was watched goes on, and what comes next is read by another thread.
    profile_once(&daemon, healthy.pid(), 300, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    let next = start(&program, &[]);
    profile_once(&daemon, next.pid(), 100, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    let before = daemon.process(healthy.pid())["samples"].as_u64().unwrap();
    daemon.wait_for_samples(healthy.pid(), before + 100, SAMPLES_WITHIN);
    // The kernel answers for a file system whose server is gone.
    drop(server);
    wait_for("end of the wait", GIVEN_UP_WITHIN, || {
        (state(&daemon)["state"] == "active").then_some(())
    });
}

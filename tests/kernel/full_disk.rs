//! A disk without room for what is to outlive the daemon.

use std::{fs, io::Write as _, path::Path, time::Duration};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    programs::wait_for,
};
use serde_json::Value;

use crate::{host, only};

const SILENCE: [&str; 6] = ["alerts", "silence", "alertname=host_cpu", "--for", "1h", "--comment"];
/// How long what takes a second may take, on two CPUs that others use as well.
const SOON: Duration = Duration::from_secs(60);

/// Fills the disk of a file.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for block in [1 << 16, 1 << 12] {
        while file.write(&vec![0; block]).is_ok_and(|written| written > 0) {}
    }
}

fn silences(daemon: &Daemon) -> usize {
    let document = daemon.json(&["alerts", "silences", "--json"]);
    document["silences"].as_array().unwrap().len()
}

fn part(daemon: &Daemon, name: &str) -> Value {
    let status = daemon.status();
    let parts = status["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).cloned().unwrap()
}

#[test]
fn a_silence_that_cannot_be_kept_is_refused() {
    let Some(host) = host() else { return };
    let state = host.path("state");
    fs::create_dir(&state).unwrap();
    // A disk that only the daemon sees, and that goes with it.
    let mount = format!("mount -t tmpfs -o size=4m none {} && exec \"$@\"", state.display());
    let through = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &mount,
        "sh",
    ];
    let config = only(97, "none");
    let options = DaemonOptions::new(&config).with_state_dir(&state).through(&through);
    let daemon = host.spawn(options).ready();
    let seen_by_daemon = format!("/proc/{}/root{}", daemon.pid(), state.display());
    let filler = Path::new(&seen_by_daemon).join("filler");
    wait_for("the state", SOON, || {
        filler.with_file_name("state.db").exists().then_some(())
    });
    let silence = |comment: &str| daemon.cli(&[&SILENCE[..], &[comment]].concat());
    assert_eq!(silence("kept").code, Some(0));
    fill(&filler);
    // What is left of the last block may hold one; a long text needs more than that.
    let refused = silence(&"x".repeat(1000));
    let refused = if refused.code == Some(0) {
        silence(&"y".repeat(1000))
    } else {
        refused
    };
    let held = silences(&daemon);
    assert_ne!(refused.code, Some(0), "{held} silences: {refused:?}");
    assert!(refused.stderr.contains("full"), "{refused:?}");
    assert!(held <= 2, "what was refused does not hold");
    wait_for("the trouble", SOON, || {
        (part(&daemon, "alerts")["state"] == "failed").then_some(())
    });
    fs::remove_file(&filler).unwrap();
    assert_eq!(silence("kept again").code, Some(0));
    assert_eq!(silences(&daemon), held + 1);
    wait_for("end of the trouble", SOON, || {
        (part(&daemon, "alerts")["state"] == "active").then_some(())
    });
}

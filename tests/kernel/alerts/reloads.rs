//! Limits and sinks that a reload adds, changes and removes.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use profiler_tests::{daemon::Daemon, programs::wait_for, python::Scripts};

use super::{BURNING, LIMIT, Scene, TOLD_WITHIN, documents, fired, found, named, text};
use crate::failed_parts;

/// Where the sink begins in the configuration of a scene, behind the limit.
const SINK: &str = "[sinks.file]";

/// The same configuration without the limit.
fn without_limit(config: &str) -> String {
    let (before, rest) = config.split_once(&format!("[limits.{LIMIT}]")).expect("a limit");
    let (_, sink) = rest.split_once(SINK).expect("a sink");
    format!("{before}{SINK}{sink}")
}

/// Waits until the daemon says that its newest configuration is wrong, or that it is right.
fn wait_until_read(daemon: &Daemon, is_right: bool) {
    wait_for("word of the configuration", TOLD_WITHIN, || {
        let failed = failed_parts(daemon);
        let is_wrong = failed.iter().any(|part| part.contains("\"configuration\""));
        (is_wrong != is_right).then_some(())
    });
}

/// What was told is taken off a sink's queue a moment later.
fn wait_until_told_and_done(daemon: &Daemon) {
    wait_for("a sink with nothing to do", TOLD_WITHIN, || {
        let document = daemon.json(&["alerts", "sinks", "--json"]);
        let mut sinks = document["sinks"].as_array()?.iter();
        let file = sinks.find(|sink| sink["name"] == "file")?;
        (file["queued"] == 0).then_some(())
    });
}

#[test]
fn a_limit_that_a_reload_adds_fires_and_ends_with_one_that_removes_it() {
    const HOLD_FOR: Duration = Duration::from_secs(1);
    // It ends by nothing else.
    const KEEP_FIRING_FOR: Duration = Duration::from_secs(600);
    let Some((host, interpreter)) = found() else { return };
    let scripts = Scripts::of(&interpreter);
    let mut scene = Scene::of(&scripts, host, HOLD_FOR, KEEP_FIRING_FOR);
    let with_limit = scene.config.clone();
    scene.config = without_limit(&with_limit);
    let daemon = scene.daemon();
    scene.tell(BURNING);
    scene.assert_told(&[]);

    daemon.reload(&with_limit);
    let firing = scene.wait_until_told(1);
    let id = text(&firing, "id");
    assert_eq!((text(&firing, "status"), text(&firing, "limit")), ("firing", LIMIT));
    wait_until_told_and_done(&daemon);

    daemon.reload(&format!("{with_limit}[limits.wrong]\nreading = \"no_such_reading\"\n"));
    wait_until_read(&daemon, false);
    assert_eq!(fired(&daemon), named(id, "firing"), "the configuration before it stays");

    // With another level, and told to another file.
    let later = scene.host.path("later.json");
    fs::write(&later, "").unwrap();
    fs::set_permissions(&later, fs::Permissions::from_mode(0o666)).unwrap();
    let changed = with_limit
        .replace("above = 0.5", "above = 0.45")
        .replace("told.json", "later.json");
    daemon.reload(&changed);
    wait_until_read(&daemon, true);
    assert_eq!(fired(&daemon), named(id, "firing"));

    daemon.reload(&without_limit(&changed));
    let over = wait_for("the end", TOLD_WITHIN, || documents(&later).first().cloned());
    assert_eq!((text(&over, "id"), text(&over, "status")), (id, "resolved"));
    assert_eq!(text(&over["annotations"], "end"), "limit_removed");
    scene.assert_told(&[(id, "firing")]);
    assert_eq!(documents(&later).len(), 1);
    assert_eq!(fired(&daemon), named(id, "resolved"));
    assert!(!daemon.log().contains("need a restart"), "{}", daemon.log());
}

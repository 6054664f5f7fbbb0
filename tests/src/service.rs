//! The daemon as the service runs it, where the tests are told to: `PROFILER_TEST_USER` names the user that all daemons run
//! as, with the capabilities of the packaged unit and no others.

use std::{env, path::Path, process::Command};

/// The capabilities of the packaged unit.
const CAPABILITIES: [&str; 6] = [
    "bpf",
    "perfmon",
    "sys_ptrace",
    "syslog",
    "dac_read_search",
    "checkpoint_restore",
];

/// The user that daemons run as, if that is not the one who runs the tests.
pub(crate) fn user() -> Option<String> {
    env::var("PROFILER_TEST_USER").ok()
}

/// What to put before a program so that it runs as the service does.
pub(crate) fn prefix(user: &str) -> Vec<String> {
    let capabilities: String = CAPABILITIES.iter().map(|name| format!(",+{name}")).collect();
    let mut words = vec!["setpriv".to_owned()];
    words.extend([format!("--reuid={user}"), format!("--regid={user}")]);
    words.extend(["--clear-groups".to_owned(), "--no-new-privs".to_owned()]);
    words.extend(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}=-all{capabilities}")));
    words
}

/// Gives a folder to the user, who keeps state in it.
///
/// # Panics
/// There is no such user.
pub(crate) fn give(folder: &Path, user: &str) {
    let owner = format!("{user}:{user}");
    let status = Command::new("chown").arg(owner).arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()), "there is no user {user}");
}

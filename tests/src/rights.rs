//! With whose rights a program runs: nobody's, or those of the service where the tests are told to. `PROFILER_TEST_USER`
//! names the user that all daemons run as then, with the capabilities of the packaged unit and no others.

use std::{env, path::Path, process::Command};

/// A user and group without rights: `nobody`.
pub(crate) const NOBODY: u32 = 65534;
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

/// A command that runs as nobody, in no group, and without a capability that it could get.
pub(crate) fn without_rights(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .args([
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ])
        .arg(program);
    command
}

/// A command that runs a program at the end of another command's arguments.
pub(crate) fn through(prefix: &[&str], program: &Path) -> Command {
    let Some((first, rest)) = prefix.split_first() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

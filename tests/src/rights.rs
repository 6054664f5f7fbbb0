//! With whose rights a program runs: nobody's, or those of the service where the tests are told to. `PROFILER_TEST_USER`
//! names the user that all daemons run as then, with the capabilities of the packaged unit and no others.

use std::{env, fs, path::Path, process::Command};

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

/// What to put before a daemon, which writes into these folders: it runs as the service does where the tests are told to, and
/// the folders are its own then; else with all the rights of who starts it. It is denied these capabilities, named as
/// `setpriv` names them.
///
/// # Panics
/// There is no such user.
pub(crate) fn prefix(denied: &[&str], folders: &[&Path]) -> Vec<String> {
    let Ok(user) = env::var("PROFILER_TEST_USER") else {
        return denial(denied);
    };
    for folder in folders {
        give(folder, &user);
    }
    let capabilities = CAPABILITIES.iter().filter(|name| !denied.contains(name));
    let capabilities: String = capabilities.map(|name| format!(",+{name}")).collect();
    let mut words = vec!["setpriv".to_owned()];
    words.extend([format!("--reuid={user}"), format!("--regid={user}")]);
    words.extend(["--clear-groups".to_owned(), "--no-new-privs".to_owned()]);
    words.extend(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}=-all{capabilities}")));
    words
}

fn denial(denied: &[&str]) -> Vec<String> {
    if denied.is_empty() {
        return Vec::new();
    }
    let capabilities: Vec<_> = denied.iter().map(|name| format!("-{name}")).collect();
    let sets = ["inh-caps", "bounding-set"].map(|set| format!("--{set}={}", capabilities.join(",")));
    [vec!["setpriv".to_owned()], sets.into()].concat()
}

/// As a service manager would. Some tests name a folder that cannot be.
fn give(folder: &Path, user: &str) {
    fs::create_dir(folder).ok();
    if !folder.is_dir() {
        return;
    }
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

//! The program under test: found or built, and run.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::SystemTime,
};

use crate::fake_daemon::FakeDaemon;

/// What the program is made from, in the workspace.
const SOURCES: [&str; 6] = [
    "profiler-cli",
    "crates/alerts",
    "crates/config",
    "crates/profile",
    "crates/readings",
    "proto",
];

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// What it wrote to stdout, which must be text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The same, of a run that must have gone well.
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }
}

impl From<std::process::Output> for Outcome {
    fn from(output: std::process::Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr,
        }
    }
}

/// Runs the program against a double and waits for it.
pub(crate) fn run<A: AsRef<OsStr>>(daemon: &FakeDaemon, arguments: impl IntoIterator<Item = A>) -> Outcome {
    command(daemon).args(arguments).output().unwrap().into()
}

/// The program with the double's socket and directory.
pub(crate) fn command(daemon: &FakeDaemon) -> Command {
    let mut command = bare_command();
    command
        .env("PROFILER_SOCKET", daemon.socket())
        .current_dir(daemon.directory());
    command
}

/// The program with nothing of this environment that would change its output.
pub(crate) fn bare_command() -> Command {
    let mut command = Command::new(path());
    for variable in [
        "PROFILER_SOCKET",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "LINES",
    ] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// `PROFILER_CLI_BIN`; or what lies beside this test, if it is newer than its sources; or what cargo builds.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("PROFILER_CLI_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let path = profile.join("profiler-cli");
        if !is_fresh(&path) {
            build(profile);
        }
        path
    })
}

/// With the features that the whole workspace asks for, so that what the tests were built with is not built again.
fn build(profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--workspace", "--bin=profiler-cli"])
        .current_dir(workspace());
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "profiler-cli cannot be built");
}

fn is_fresh(path: &Path) -> bool {
    let Ok(built) = fs::metadata(path).and_then(|metadata| metadata.modified()) else {
        return false;
    };
    let mut newest = SystemTime::UNIX_EPOCH;
    for source in SOURCES {
        note_newest(&workspace().join(source), &mut newest);
    }
    built >= newest
}

fn note_newest(path: &Path, newest: &mut SystemTime) {
    // An editor's temporary file may be gone by now.
    let Ok(metadata) = fs::metadata(path) else { return };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            note_newest(&entry.unwrap().path(), newest);
        }
    } else {
        *newest = (*newest).max(metadata.modified().unwrap());
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

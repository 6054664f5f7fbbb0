//! The daemon under a service manager: the socket that it is passed, what it tells, and what a reload does.

use std::{
    env, fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{ptrace, wait},
    unistd::Pid,
};
use profiler_tests::programs::{send_signal, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::{host, skip};

/// How long the daemon may take for anything that it is asked for.
const SOON: Duration = Duration::from_secs(20);
/// What the service manager waits for a sign of life.
const WATCHDOG: Duration = Duration::from_secs(4);

/// A daemon that was started by a connection to a socket that it did not make.
struct Managed {
    child: Child,
    socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
    told: UnixDatagram,
}

impl Managed {
    fn start(folder: &Path, config: &str) -> Self {
        let at = |name: &str| folder.join(name);
        let told = UnixDatagram::bind(at("notify")).unwrap();
        told.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        fs::write(at("config.toml"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let child = Command::new("systemd-socket-activate")
            .arg("--listen")
            .arg(at("passed.sock"))
            .arg(format!("--setenv=NOTIFY_SOCKET={}", at("notify").display()))
            .arg(format!("--setenv=WATCHDOG_USEC={}", WATCHDOG.as_micros()))
            .arg(env::var_os("PROFILER_DAEMON_BIN").unwrap())
            .arg("--config")
            .arg(at("config.toml"))
            .arg("--socket")
            .arg(at("never.sock"))
            .arg("--state-dir")
            .arg(at("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let managed = Self {
            child,
            socket: at("passed.sock"),
            config: at("config.toml"),
            log: at("log"),
            told,
        };
        wait_for("socket", SOON, || managed.socket.exists().then_some(()));
        managed
    }

    fn cli(&self, arguments: &[&str]) -> Value {
        let output = Command::new(env::var_os("PROFILER_CLI_BIN").unwrap())
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// State and reason of a part.
    fn part(&self, name: &str) -> (String, String) {
        let status = self.cli(&["status", "--json"]);
        let parts = status["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["name"] == name).unwrap();
        let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }

    /// Waits for a line of the protocol, and returns all until then.
    fn wait_told(&self, prefix: &str) -> Vec<String> {
        self.wait_told_any(prefix, |line| line.starts_with(prefix))
    }

    fn wait_told_any(&self, what: &str, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        wait_for(what, SOON, || {
            seen.extend(self.told());
            seen.iter().any(|line| is_meant(line)).then_some(())
        });
        seen
    }

    /// The lines that have been told since the last look.
    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.told.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    }

    fn reload(&self, config: &str) -> Vec<String> {
        fs::write(&self.config, config).unwrap();
        self.told();
        send_signal(self.child.id(), Signal::HUP);
        let told = self.wait_told("READY=1");
        let position = |prefix: &str| told.iter().position(|line| line.starts_with(prefix));
        assert!(position("RELOADING=1") < position("READY=1"), "{told:?}");
        assert!(position("MONOTONIC_USEC=").is_some(), "{told:?}");
        told
    }

    /// The thread of the sampling loop.
    fn sampling_thread(&self) -> Pid {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_loop =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "sampling");
        let task = tasks.find(is_loop).unwrap();
        Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A daemon in a folder of its own; none where it cannot be run.
fn managed(config: &str) -> Option<(tempfile::TempDir, Managed)> {
    host()?;
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        skip("needs systemd-socket-activate");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let managed = Managed::start(folder.path(), config);
    Some((folder, managed))
}

#[test]
fn a_reload_changes_what_can_change_and_names_the_rest() {
    let Some((folder, mut daemon)) = managed("[targets]\nmax_processes = 7\n") else {
        return;
    };
    assert_eq!(daemon.part("configuration").0, "active");
    let told = daemon.wait_told("STATUS=");
    assert!(told.iter().any(|line| line == "READY=1"), "{told:?}");
    assert!(!folder.path().join("never.sock").exists());

    daemon.reload("[targets]\nmax_processes = 8\n[store]\nretention = \"2m\"\n[log]\nlevel = \"debug\"\n[walker]\nmax_row_bytes = \"4MiB\"\n");
    let shown = daemon.cli(&["config", "show", "--effective", "--json"]).to_string();
    assert!(shown.contains("\"max_processes\":8") && shown.contains("2m"), "{shown}");
    let restart = wait_for("word of what needs a restart", SOON, || {
        let log = fs::read_to_string(&daemon.log).unwrap();
        let mut lines = log.lines();
        lines.find(|line| line.contains("need a restart")).map(str::to_owned)
    });
    assert!(
        restart.contains("walker.max_row_bytes") && !restart.contains("targets"),
        "{restart}"
    );

    let told = daemon.reload("[targets]\nmax_processes = \"many\"\n");
    let (state, reason) = daemon.part("configuration");
    assert_eq!(state, "failed");
    assert!(reason.contains("config.toml:2"), "{reason}");
    // It is told apart from the end of the reload, before or after.
    let failed = "STATUS=configuration failed";
    if !told.iter().any(|line| line.starts_with(failed)) {
        daemon.wait_told(failed);
    }
    let shown = daemon.cli(&["config", "show", "--effective", "--json"]).to_string();
    assert!(shown.contains("\"max_processes\":8"), "{shown}");

    daemon.reload("[targets]\nmax_processes = 9\n");
    assert_eq!(daemon.part("configuration").0, "active");

    send_signal(daemon.child.id(), Signal::TERM);
    wait_for("end", SOON, || daemon.child.try_wait().unwrap());
    assert!(daemon.socket.exists(), "the socket belongs to the service manager");
}

#[test]
fn what_is_given_up_to_keep_within_the_budget_is_told() {
    const PACE: &str = "averaged_over = \"1s\"\nrecover_after = \"1s\"\nmax_cpu_percent = 100\n";
    // No daemon takes so little memory.
    let Some((_folder, daemon)) = managed(&format!("[budget]\n{PACE}max_memory_bytes = \"8MiB\"\n")) else {
        return;
    };
    // It is started by who connects.
    assert_eq!(daemon.part("configuration").0, "active");
    daemon.wait_told_any("word of the memory", |line| {
        line.starts_with("STATUS=")
            && line.contains("over budget: memory at")
            && line.contains("given up: cached symbols dropped")
    });
    let told = daemon.reload(&format!("[budget]\n{PACE}max_memory_bytes = \"4GiB\"\n"));
    let is_end = |line: &str| line.starts_with("STATUS=") && !line.contains("over budget");
    // On a busy machine all may be taken back before the reload is told to be over.
    if !told.iter().any(|line| is_end(line)) {
        daemon.wait_told_any("word of the end", is_end);
    }
}

#[test]
fn a_loop_that_hangs_gives_no_sign_of_life() {
    let Some((_folder, daemon)) = managed("") else { return };
    assert_eq!(daemon.part("sampling").0, "active");
    daemon.wait_told("WATCHDOG=1");
    let thread = daemon.sampling_thread();
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    wait::waitpid(thread, Some(wait::WaitPidFlag::__WALL)).unwrap();
    daemon.told();
    let until = Instant::now() + WATCHDOG;
    while Instant::now() < until {
        let told = daemon.told();
        assert!(!told.iter().any(|line| line == "WATCHDOG=1"), "{told:?}");
    }
    // The rest of the daemon answers, and says so.
    assert_ne!(daemon.part("sampling").0, "active");
    ptrace::detach(thread, None).unwrap();
    daemon.wait_told("WATCHDOG=1");
}

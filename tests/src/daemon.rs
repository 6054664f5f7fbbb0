//! The real daemon and the real command line, beside whatever else runs on the host: each daemon has a socket, a state
//! directory and a configuration of its own, and ends with the test.
//!
//! The binaries are named by `PROFILER_DAEMON_BIN` and `PROFILER_CLI_BIN`, which `cargo xtask test --ring kernel` sets.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    output::{Output, show_log},
    programs::{self, patience, send_signal, wait_for},
    rights::{self, NOBODY, through, without_rights},
};

pub use crate::options::DaemonOptions;

/// Options of a flame graph of all that there is of a short test.
pub const LAST_10_MINUTES: [&str; 2] = ["--last", "10m"];
/// How long a daemon may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to name what it has sampled, on a machine that is busy with others.
const NAMED_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What the tests of the kernel ring need, and a folder for one of them.
#[derive(Debug)]
pub struct Host {
    daemon: PathBuf,
    cli: PathBuf,
    folder: TempDir,
}

impl Host {
    /// Finds what is needed.
    ///
    /// # Errors
    /// What is missing, in words.
    ///
    /// # Panics
    /// There is no place for temporary files.
    pub fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let binary = |name: &str| {
            let path = env::var_os(name).map(PathBuf::from).filter(|path| path.is_file());
            path.ok_or_else(|| format!("{name} names no file; run `cargo xtask test --ring kernel`"))
        };
        let host = Self {
            daemon: binary("PROFILER_DAEMON_BIN")?,
            cli: binary("PROFILER_CLI_BIN")?,
            folder: TempDir::with_prefix("profiler-test-").expect("a temporary folder"),
        };
        set_mode(host.folder.path(), 0o755);
        Ok(host)
    }

    /// A path in this test's folder, which everybody may enter.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compiles a Rust program of the fixtures.
    pub fn rust(&self, name: &str) -> PathBuf {
        programs::compile_rust(self.folder.path(), name, &[])
    }

    /// Compiles a Rust program of the fixtures with more flags.
    pub fn rust_with(&self, name: &str, flags: &[&str]) -> PathBuf {
        programs::compile_rust(self.folder.path(), name, flags)
    }

    /// Compiles a C program of the fixtures.
    pub fn c(&self, name: &str, output: &str, flags: &[&str]) -> PathBuf {
        programs::compile_c(self.folder.path(), name, output, flags)
    }

    /// A daemon that answers.
    pub fn daemon(&self, config: &str) -> Daemon {
        self.spawn(DaemonOptions::new(config)).ready()
    }

    /// A daemon that may still be starting.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(&self, options: DaemonOptions<'_>) -> Daemon {
        let folder = TempDir::with_prefix_in("daemon-", self.folder.path()).expect("a temporary folder");
        let config = folder.path().join("config.toml");
        fs::write(&config, options.config).expect("a configuration can be written");
        let (socket, log) = (folder.path().join("daemon.sock"), folder.path().join("daemon.log"));
        let socket = options.socket.map_or(socket, Path::to_path_buf);
        let log_file = File::create(&log).expect("a log can be written");
        let state = folder.path().join("state");
        let state = options.state_dir.map_or(state, Path::to_path_buf);
        let mut command = if options.unprivileged {
            set_mode(folder.path(), 0o755);
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("root may give files away");
            without_rights(&self.copy_for_everybody(&self.daemon))
        } else {
            // It makes a lock beside its socket.
            let beside_socket = socket.parent().unwrap_or(folder.path());
            let rights = rights::prefix(options.denied, &[folder.path(), beside_socket, &state]);
            let rights = rights.iter().map(String::as_str);
            let prefix: Vec<_> = options.through.iter().copied().chain(rights).collect();
            through(&prefix, &self.daemon)
        };
        command
            .args([
                OsStr::new("--config"),
                config.as_ref(),
                OsStr::new("--socket"),
                socket.as_ref(),
            ])
            .args([OsStr::new("--state-dir"), state.as_ref()])
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().expect("a descriptor can be copied"))
            .stderr(log_file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Daemon {
            child,
            cli: self.cli.clone(),
            socket,
            log,
            folder,
        }
    }

    /// Runs the command line as a user without any rights.
    pub fn cli_without_rights(&self, socket: &Path, arguments: &[&str]) -> Output {
        let cli = self.copy_for_everybody(&self.cli);
        Output::of(without_rights(&cli).arg("--socket").arg(socket).args(arguments))
    }

    /// The folder of a build need not be open to everybody.
    fn copy_for_everybody(&self, program: &Path) -> PathBuf {
        let copy = self.path(&program.file_name().unwrap_or_default().to_string_lossy());
        if !copy.exists() {
            fs::copy(program, &copy).expect("a program can be copied");
            set_mode(&copy, 0o755);
        }
        copy
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may set modes");
}

/// A daemon, which ends when this goes away.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    cli: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    folder: TempDir,
}

impl Daemon {
    /// Waits until the daemon answers.
    ///
    /// # Panics
    /// It ends, or does not answer.
    pub fn ready(mut self) -> Self {
        let limit = patience(READY_WITHIN);
        let end = Instant::now() + limit;
        while self.cli(&["status", "--json"]).code != Some(0) {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the daemon ended with {ended:?}");
            assert!(Instant::now() < end, "the daemon does not answer after {limit:?}");
            thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// Waits until the daemon ends by itself.
    ///
    /// # Panics
    /// It does not.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("end of the daemon", READY_WITHIN, || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Kills the daemon as the kernel would.
    ///
    /// # Panics
    /// It had ended before.
    pub fn kill(&mut self) {
        self.child.kill().expect("the daemon runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its anonymous and shared resident memory.
    ///
    /// # Panics
    /// It has ended.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let kibibytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            number.expect("the kernel says how much memory is resident")
        };
        (kibibytes("RssAnon:") + kibibytes("RssShmem:")) << 10
    }

    /// What its descriptors refer to.
    ///
    /// # Panics
    /// It has ended.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the daemon runs");
        // One may be closed while we look.
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect()
    }

    /// Has it read another configuration.
    ///
    /// # Panics
    /// It cannot be written, or the daemon has ended.
    pub fn reload(&self, config: &str) {
        fs::write(self.folder.path().join("config.toml"), config).expect("a configuration can be written");
        send_signal(self.pid(), Signal::HUP);
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs the command line against it.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Output::of(self.cli_command().args(arguments))
    }

    /// The command line against it, for more arguments or to be started beside others.
    pub fn cli_command(&self) -> Command {
        let mut command = Command::new(&self.cli);
        command.arg("--socket").arg(&self.socket);
        command
    }

    /// Runs the command line, which the arguments tell where the daemon is.
    pub fn cli_anywhere(&self, arguments: &[&str]) -> Output {
        Output::of(Command::new(&self.cli).args(arguments))
    }

    /// Runs the command line against it, which must succeed and print JSON.
    ///
    /// # Panics
    /// It fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(arguments);
        assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?} printed no JSON: {error}"))
    }

    /// Asks it for a process's flame graph, which the command line writes to its output.
    pub fn flamegraph(&self, pid: u32, options: &[&str]) -> Output {
        let pid = pid.to_string();
        self.cli(&[&["flamegraph", "--pid", &pid, "-o", "-"], options].concat())
    }

    /// A process's profile; nothing if the command line fails.
    ///
    /// # Panics
    /// It prints something that is no JSON.
    pub fn profile(&self, pid: u32, options: &[&str]) -> Option<Value> {
        let output = self.flamegraph(pid, &[&["--format", "json"], options].concat());
        let read = || serde_json::from_str(&output.stdout);
        (output.code == Some(0)).then(|| read().unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    /// All that it has of a process, once it has named any of it.
    ///
    /// # Panics
    /// It has nothing.
    pub fn whole_profile(&self, pid: u32) -> Value {
        wait_for(&format!("profile of process {pid}"), NAMED_WITHIN, || {
            self.profile(pid, &LAST_10_MINUTES)
        })
    }

    /// Its status.
    pub fn status(&self) -> Value {
        self.json(&["status", "--json"])
    }

    /// What it says of one process; `null` if there is no such process.
    ///
    /// # Panics
    /// The command line prints something that is no JSON.
    pub fn process(&self, pid: u32) -> Value {
        let output = self.cli(&["ps", "--json", "--pid", &pid.to_string()]);
        if output.code != Some(0) {
            return Value::Null;
        }
        let document: Value = serde_json::from_str(&output.stdout).expect("ps prints JSON");
        document["processes"][0].clone()
    }

    /// Waits until it has so many samples of a process.
    ///
    /// # Panics
    /// They do not come.
    pub fn wait_for_samples(&self, pid: u32, samples: u64, timeout: Duration) {
        wait_for(&format!("{samples} samples of process {pid}"), timeout, || {
            (self.process(pid)["samples"].as_u64()? >= samples).then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            send_signal(self.pid(), Signal::TERM);
            let end = Instant::now() + patience(END_WITHIN);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
            // Only has an effect where asking had none.
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if thread::panicking() {
            show_log(&self.log());
        }
    }
}

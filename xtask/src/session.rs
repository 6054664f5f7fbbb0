//! A daemon of our own, beside whatever else runs on the host: its own socket, state and configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::workspace;

/// How long the daemon may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How often the daemon is asked whether it has got somewhere.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The shortest window that the configuration allows: queries see the whole of each window that they touch.
const WINDOW: Duration = Duration::from_secs(1);
/// Configuration with windows of [`WINDOW`].
pub(crate) const SHORT_WINDOWS: &str = "[store]\nwindow = \"1s\"\n";
/// How much of the daemon's log is shown when it fails.
const LOG_LINES: usize = 20;

/// A running daemon and how to reach it.
#[derive(Debug)]
pub(crate) struct Session {
    // Fields are dropped in this order: the daemon ends before its folder goes.
    daemon: Running,
    folder: TempDir,
    cli: PathBuf,
    interrupt: Interrupt,
}

impl Session {
    /// Starts a daemon with `config` (TOML) and waits until its socket is there.
    pub(crate) fn start(binaries: &Binaries, config: &str, interrupt: &Interrupt) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("profiler-")
            .tempdir()
            .context("cannot make a folder")?;
        let config_path = folder.path().join("config.toml");
        fs::write(&config_path, config).with_context(|| format!("cannot write {}", config_path.display()))?;
        let log = File::create(folder.path().join("daemon.log")).context("cannot make the daemon's log")?;
        let mut command = Command::new(&binaries.daemon);
        command
            .arg("--config")
            .arg(&config_path)
            .arg("--socket")
            .arg(folder.path().join("profiler.sock"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the daemon's log")?)
            .stderr(log);
        let daemon = Running::start(&mut command)?;
        let mut session = Self {
            daemon,
            folder,
            cli: binaries.cli.clone(),
            interrupt: interrupt.clone(),
        };
        session.wait_until_ready()?;
        Ok(session)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_WITHIN;
        let socket = self.folder.path().join("profiler.sock");
        let (daemon, interrupt) = (&mut self.daemon, &self.interrupt);
        let ready = interrupt.wait_for(|| {
            if let Some(status) = daemon.ended()? {
                bail!("the daemon ended with {status}");
            }
            if Instant::now() > end {
                bail!("the daemon has no socket after {} s", READY_WITHIN.as_secs());
            }
            Ok(socket.exists().then_some(()))
        });
        ready.with_context(|| format!("the daemon did not start; its log ends with\n{}", self.log()))
    }

    /// The end of the daemon's log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// The process id of the daemon.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A path in the folder of this session.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until stacks of process `pid` reach their root, and the window in which they did not yet is over.
    pub(crate) fn wait_until_walked(&self, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        let end = Instant::now() + READY_WITHIN;
        while Instant::now() < end {
            let listed = self.cli_output(&["ps", "--pid", &pid, "--json"])?;
            let listed: Value = serde_json::from_str(&listed).context("ps is no JSON")?;
            if listed["processes"][0]["rooted_samples"]
                .as_u64()
                .is_some_and(|samples| samples > 0)
            {
                return self.interrupt.sleep(WINDOW);
            }
            self.interrupt.sleep(ASK_EVERY)?;
        }
        bail!(
            "no stack of process {pid} reached its root in {} s; the log ends with\n{}",
            READY_WITHIN.as_secs(),
            self.log()
        )
    }

    /// Runs `profiler-cli` with `arguments`, its output and messages on our terminal.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<()> {
        self.run_cli(arguments, Stdio::inherit())
    }

    /// Runs `profiler-cli` with `arguments` and returns what it wrote to its standard output.
    pub(crate) fn cli_output(&self, arguments: &[&str]) -> Result<String> {
        let path = self.path("output");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        self.run_cli(arguments, file.into())?;
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn run_cli(&self, arguments: &[&str], stdout: Stdio) -> Result<()> {
        let mut command = Command::new(&self.cli);
        command
            .arg("--socket")
            .arg(self.path("profiler.sock"))
            .args(arguments)
            .stdout(stdout)
            .stdin(Stdio::null());
        let status = Running::start(&mut command)?.wait(&self.interrupt)?;
        if !status.success() {
            bail!(
                "profiler-cli {} ended with {status}; the daemon's log ends with\n{}",
                arguments.join(" "),
                self.log()
            );
        }
        Ok(())
    }
}

/// Starts the demo's service.
pub(crate) fn start_demo(binaries: &Binaries) -> Result<Running> {
    Running::start(Command::new(&binaries.demo).stdin(Stdio::null()))
}

/// Starts the demo's service in Python, under the interpreter that is first on the path.
pub(crate) fn start_python_demo() -> Result<Running> {
    let script = workspace::root().join("demo/python/shop.py");
    Running::start(Command::new("python3").arg(script).stdin(Stdio::null()))
}

/// `path` as an argument; the paths here are our own.
pub(crate) fn text_of(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

//! Programs to be profiled: compiled from `tests/fixtures/programs`, started, and ended with the test.
//!
//! In: the name of a source and flags of its compiler. Out: a path, or a running process that has said `ready`.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take until it says `ready`, on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Lines of a program that wait to be read; more make it wait.
const LINES: usize = 64;
/// How long we sleep between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Compiles a Rust program of the fixtures into `folder`, optimized, without frame pointers, and with a lazily bound PLT.
///
/// # Panics
/// It does not compile.
pub fn compile_rust(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let program = folder.join(name);
    let mut command = Command::new(rustc());
    command
        .args(["--edition=2024", "-Copt-level=3", "-Cforce-frame-pointers=no"])
        .args(["-Crelro-level=partial", "-o"])
        .args([&program, &source(&format!("{name}.rs"))])
        .args(flags);
    provide(&program, name, flags, command);
    program
}

/// Compiles a C program of the fixtures to `folder`/`output`.
///
/// # Panics
/// It does not compile.
pub fn compile_c(folder: &Path, name: &str, output: &str, flags: &[&str]) -> PathBuf {
    let program = folder.join(output);
    let mut command = Command::new("cc");
    command
        .args(["-O2", "-fomit-frame-pointer", "-o"])
        .args([&program, &source(&format!("{name}.c"))])
        .args(flags);
    provide(&program, name, flags, command);
    program
}

/// Compiles a program, and keeps a copy in the folder that `PROFILER_TEST_KEEP_PROGRAMS` names. Where there are no
/// compilers, `PROFILER_TEST_PROGRAMS` names such a folder, and the program is taken from there.
fn provide(program: &Path, name: &str, flags: &[&str], compiler: Command) {
    let kept_in = |folder| env::var_os(folder).map(|folder| Path::new(&folder).join(kept_name(name, flags)));
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to)
            .unwrap_or_else(|error| panic!("cannot copy {} to {}: {error}", from.display(), to.display()));
    };
    if let Some(kept) = kept_in("PROFILER_TEST_PROGRAMS") {
        copy(&kept, program);
        return;
    }
    compile(compiler);
    if let Some(kept) = kept_in("PROFILER_TEST_KEEP_PROGRAMS") {
        copy(program, &kept);
    }
}

/// A name for what is compiled from this source with these flags.
fn kept_name(name: &str, flags: &[&str]) -> String {
    let words: Vec<_> = std::iter::once(&name).chain(flags).copied().collect();
    words.join(" ").replace('/', "%")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/programs")
        .join(name)
}

/// The compiler beside the cargo that built this: run through sudo there is none on the path.
fn rustc() -> PathBuf {
    let beside = Path::new(env!("CARGO")).with_file_name("rustc");
    if beside.exists() {
        beside
    } else {
        PathBuf::from("rustc")
    }
}

fn compile(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {messages}");
}

/// A running program. It is killed when this goes away.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program, and waits until it says `ready`.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start(command: &mut Command) -> Self {
        let (running, said) = Self::start_and_listen(command);
        assert!(said.is_empty(), "{command:?} said {said:?} before it was ready");
        running
    }

    /// Starts a program, and waits until it says `ready`; gives what it said before.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start_and_listen(command: &mut Command) -> (Self, Vec<String>) {
        let (mut running, said) = Self::try_start(command);
        match said {
            Some(said) => (running, said),
            None => panic!("{command:?} is not ready: {:?}", running.child.try_wait()),
        }
    }

    /// Starts a program. Gives what it said before it was ready, or nothing if it ended or never was.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn try_start(command: &mut Command) -> (Self, Option<Vec<String>>) {
        let running = Self::start_silent(command);
        let end = Instant::now() + patience(READY_WITHIN);
        let mut said = Vec::new();
        loop {
            match running.line(end.saturating_duration_since(Instant::now())) {
                Some(line) if line == "ready" => return (running, Some(said)),
                Some(line) => said.push(line),
                None => return (running, None),
            }
        }
    }

    /// Starts a program that says nothing.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_silent(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let (sender, lines) = sync_channel(LINES);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says; nothing if it has ended or says nothing for so long.
    pub fn line(&self, timeout: Duration) -> Option<String> {
        self.lines.recv_timeout(timeout).ok()
    }

    /// Ends it.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn stop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal to a process that need not be a child.
///
/// # Panics
/// There is no such process.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let sent = pid.map(|pid| kill_process(pid, signal));
    assert!(matches!(sent, Some(Ok(()))), "cannot send {signal:?}: {sent:?}");
}

/// Waits until `poll` has an answer.
///
/// # Panics
/// It has none after `timeout`; `what` says what was waited for.
pub fn wait_for<T>(what: &str, timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let timeout = patience(timeout);
    let end = Instant::now() + timeout;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < end, "no {what} after {timeout:?}");
        thread::sleep(LOOK_EVERY);
    }
}

/// How long to wait for what takes at most `limit` on a machine of its own: `PROFILER_TEST_PATIENCE` times as long, for
/// machines that are emulated. Nothing takes longer by it but a test that fails.
pub fn patience(limit: Duration) -> Duration {
    limit * patience_factor()
}

/// Whether everything takes longer here than on a machine of its own, also what the kernel does meanwhile.
pub fn is_emulated() -> bool {
    patience_factor() > 1
}

fn patience_factor() -> u32 {
    let times = env::var("PROFILER_TEST_PATIENCE").ok();
    times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A file that can be executed, with this content.
///
/// # Panics
/// It cannot be written.
pub fn write_executable(path: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, content).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
}

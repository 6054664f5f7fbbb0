//! Programs of others that the daemon runs, and what they may not do.
//!
//! In: the arguments of a program and what it reads. Out: how it ended and the beginning of what it wrote. A program never
//! gets what the daemon has: between them stands a second process of the daemon's own binary, the supervisor, which gives
//! up every right before it starts the program, ends it in time, and ends whatever it left behind. So no right is lost in the
//! daemon itself, and nothing that a program forks outlives it.

mod supervisor;
mod trust;

use std::{
    fmt,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

pub use supervisor::supervise_if_asked;
pub use trust::{Distrust, check_executable, check_library};

/// The environment of a program, and all of it.
const ENVIRONMENT: [(&str, &str); 2] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
];
/// First argument of a supervisor.
const SUPERVISE: &str = "--child";
/// For how long a supervisor may take to end what it started, beyond the time of the program.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(15);
/// What is read of a program that writes without end; after that nobody listens to it.
const MAX_READ_BYTES: usize = 16 << 20;
/// What is read of a supervisor.
const MAX_VERDICT_BYTES: usize = 4 << 10;

/// A program to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its absolute path and its arguments.
    pub argv: Arc<[String]>,
    /// What it reads on standard input.
    pub input: Vec<u8>,
    /// For how long it may run.
    pub timeout: Duration,
    /// What is kept of what it writes; the rest is counted out.
    pub max_output_bytes: usize,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// It was ended: its time was over.
    TimedOut,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut => f.write_str("did not end in time"),
        }
    }
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The beginning of what it wrote to standard output and standard error, as it came.
    pub output: Vec<u8>,
    /// Whether it wrote more than that.
    pub was_cut: bool,
    /// Processes that it left behind, and that were ended.
    pub left_behind: u32,
}

/// Why a program did not run, or nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Others could have changed it.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// The supervisor cannot be started or talked to.
    #[error("cannot run {program}: {source}")]
    Supervisor {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The supervisor did not start it.
    #[error("cannot run {program}: {reason}")]
    NotRun {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
}

/// Runs programs.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The daemon's own binary.
    supervisor: PathBuf,
}

impl Runner {
    /// With the binary of the running daemon, also when another has taken its place on disk.
    pub fn of_this_program() -> Self {
        Self::new("/proc/self/exe".into())
    }

    /// With this binary of the daemon.
    pub fn new(supervisor: PathBuf) -> Self {
        Self { supervisor }
    }

    /// Runs a program and waits for its end.
    ///
    /// # Errors
    /// It did not run, or nobody knows how it ended.
    pub fn run(&self, job: &Job) -> Result<Outcome, ChildError> {
        let program = job.argv.first().cloned().unwrap_or_default();
        check_executable(program.as_ref())?;
        let failed = |source| ChildError::Supervisor {
            program: program.clone(),
            source,
        };
        let mut supervisor = self.start(job).map_err(failed)?;
        let talk = Talk::of(&mut supervisor, job).and_then(|mut talk| {
            talk.finish(Instant::now() + job.timeout + SUPERVISOR_PATIENCE)?;
            Ok(talk)
        });
        // Of a supervisor that has ended nothing is left to be killed.
        let killed = match &talk {
            Ok(_) => Ok(()),
            Err(_) => supervisor.kill(),
        };
        let waited = supervisor.wait();
        let talk = talk.map_err(failed)?;
        killed.and(waited.map(drop)).map_err(failed)?;
        let verdict = String::from_utf8_lossy(&talk.verdict);
        let (end, left_behind) = supervisor::parse_verdict(&verdict).map_err(|reason| ChildError::NotRun {
            program: program.clone(),
            reason,
        })?;
        Ok(Outcome {
            end,
            output: talk.output,
            was_cut: talk.was_cut,
            left_behind,
        })
    }

    fn start(&self, job: &Job) -> io::Result<Child> {
        Command::new(&self.supervisor)
            .arg(SUPERVISE)
            .arg(std::process::id().to_string())
            .arg(job.timeout.as_millis().to_string())
            .args(job.argv.iter())
            .env_clear()
            .envs(ENVIRONMENT)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// What is written to and read from a supervisor and its program, none of which may keep the daemon waiting.
#[derive(Debug)]
struct Talk<'a> {
    input: &'a [u8],
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    output: Vec<u8>,
    max_output_bytes: usize,
    read_bytes: usize,
    was_cut: bool,
    verdict: Vec<u8>,
}

impl<'a> Talk<'a> {
    fn of(supervisor: &mut Child, job: &'a Job) -> io::Result<Self> {
        let talk = Self {
            input: &job.input,
            stdin: supervisor.stdin.take(),
            stdout: supervisor.stdout.take(),
            stderr: supervisor.stderr.take(),
            output: Vec::new(),
            max_output_bytes: job.max_output_bytes,
            read_bytes: 0,
            was_cut: false,
            verdict: Vec::new(),
        };
        let pipes = [
            talk.stdin.as_ref().map(AsFd::as_fd),
            talk.stdout.as_ref().map(AsFd::as_fd),
            talk.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(talk)
    }

    /// Goes on until the supervisor has said how the program ended.
    fn finish(&mut self, deadline: Instant) -> io::Result<()> {
        while self.stderr.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its supervisor hangs"));
            }
            self.wait(left)?;
            self.write()?;
            self.read_output()?;
            self.read_verdict()?;
        }
        // The program is no more: what it wrote is all there.
        self.read_output()
    }

    fn wait(&self, longest: Duration) -> io::Result<()> {
        let mut polled = Vec::with_capacity(3);
        if let Some(stdin) = &self.stdin {
            polled.push(PollFd::new(stdin, PollFlags::OUT));
        }
        if let Some(stdout) = &self.stdout {
            polled.push(PollFd::new(stdout, PollFlags::IN));
        }
        if let Some(stderr) = &self.stderr {
            polled.push(PollFd::new(stderr, PollFlags::IN));
        }
        let timeout = Timespec::try_from(longest).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let written = match stdin.write(self.input) {
            Ok(count) => {
                self.input = &self.input[count..];
                Ok(())
            }
            // A program need not read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.input = &[];
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        };
        if self.input.is_empty() {
            self.stdin = None;
        }
        written
    }

    fn read_output(&mut self) -> io::Result<()> {
        let Some(stdout) = &mut self.stdout else { return Ok(()) };
        let mut buffer = [0; 16 << 10];
        loop {
            match stdout.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.read_bytes += count;
                    let room = self.max_output_bytes - self.output.len();
                    self.was_cut |= count > room;
                    self.output.extend_from_slice(&buffer[..count.min(room)]);
                    if self.read_bytes >= MAX_READ_BYTES {
                        break;
                    }
                }
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.stdout = None;
        Ok(())
    }

    fn read_verdict(&mut self) -> io::Result<()> {
        let Some(stderr) = &mut self.stderr else { return Ok(()) };
        let mut buffer = [0; 1 << 10];
        match stderr.read(&mut buffer) {
            Ok(0) => self.stderr = None,
            Ok(count) => {
                let room = MAX_VERDICT_BYTES - self.verdict.len();
                self.verdict.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether there is only nothing to be done just now.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

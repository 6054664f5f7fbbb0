//! A sampling loop that follows a script, for tests of the API alone.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use profiler_daemon::{
    command::{
        Command, EngineStatus, FlushError, Lease, MappedError, ProcessError, ProcessSummary, Runtime, WatchError,
        WatchId, WatchProgress, WatchStart, WatchState,
    },
    kernel::records::Pid,
};
use tokio::sync::mpsc;

/// What the loop is asked, and does not answer by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Watch(Pid, Option<WatchId>),
    TakeMapped(Pid, WatchId),
    End(WatchId),
}

/// What the loop answers.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) processes: Vec<ProcessSummary>,
    pub(crate) watch: Result<WatchStart, WatchError>,
    pub(crate) mapped: Result<(), MappedError>,
    pub(crate) progress: Option<WatchProgress>,
    pub(crate) flush: Result<(), FlushError>,
    /// Time that a flush takes.
    pub(crate) flush_time: Duration,
    pub(crate) flushes: u32,
    pub(crate) status: EngineStatus,
    pub(crate) seen: Vec<Seen>,
    /// Length of the last lease without a stream.
    pub(crate) lease: Option<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            processes: Vec::new(),
            watch: Ok(WatchStart { already_watched: false }),
            mapped: Ok(()),
            progress: Some(WatchProgress::default()),
            flush: Ok(()),
            flush_time: Duration::ZERO,
            flushes: 0,
            status: EngineStatus::default(),
            seen: Vec::new(),
            lease: None,
        }
    }
}

/// A script that a test may change while the loop follows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Script>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the script is as it should be; a test that waits in vain fails.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Script) -> bool) {
        for _ in 0..3000 {
            if is_so(&self.lock()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not so after 30 s: {what}; {:?}", self.lock());
    }
}

/// Answers until nobody asks any more.
pub(crate) async fn run(mut commands: mpsc::Receiver<Command>, script: Shared) {
    while let Some(command) = commands.recv().await {
        answer(command, &script).await;
    }
}

async fn answer(command: Command, script: &Shared) {
    // Whoever asked may have left: what becomes of an answer is none of the loop's business.
    match command {
        Command::Flush { reply } => {
            let time = script.lock().flush_time;
            tokio::time::sleep(time).await;
            let mut script = script.lock();
            script.flushes += 1;
            drop(reply.send(script.flush.clone()));
        }
        Command::ListProcesses { pid, reply } => {
            let found: Vec<_> = script
                .lock()
                .processes
                .iter()
                .filter(|one| pid.is_none_or(|pid| one.pid == pid))
                .cloned()
                .collect();
            drop(reply.send(match pid {
                Some(pid) if found.is_empty() => Err(ProcessError::NoSuchProcess { pid }),
                _ => Ok(found),
            }));
        }
        Command::Watch { pid, until, reply } => {
            let mut script = script.lock();
            let id = match until {
                Lease::Stream(id) => Some(id),
                Lease::Until(end) => {
                    script.lease = Some(end.saturating_duration_since(std::time::Instant::now()));
                    None
                }
            };
            script.seen.push(Seen::Watch(pid, id));
            drop(reply.send(script.watch.clone()));
        }
        // Nothing is sampled.
        Command::Restrain(_) => {}
        Command::ListMembers { reply } => drop(reply.send(Vec::new())),
        Command::TakeMapped { id, pid, reply } => {
            let mut script = script.lock();
            script.seen.push(Seen::TakeMapped(pid, id));
            drop(reply.send(script.mapped.clone()));
        }
        Command::EndWatch { id } => script.lock().seen.push(Seen::End(id)),
        Command::WatchProgress { reply, .. } => drop(reply.send(script.lock().progress)),
        Command::Configure { reply, .. } => drop(reply.send(())),
        Command::Status { reply } => drop(reply.send(script.lock().status.clone())),
    }
}

/// A watched process.
pub(crate) fn process(pid: u32) -> ProcessSummary {
    ProcessSummary {
        pid: Pid(pid),
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        name: "svc".into(),
        executable: "/srv/svc".to_owned(),
        command_line: vec!["/srv/svc".to_owned(), "--secret".to_owned()],
        runtime: Runtime::Rust,
        service: "web".into(),
        watch_state: WatchState::Watched,
        watch_reason: "discovered".to_owned(),
        user_id: 1000,
        mappings: 3,
        mappings_with_rows: 2,
        samples: 10,
        rooted_samples: 9,
        python_samples: 0,
        interpreter: None,
        limitations: Vec::new(),
    }
}

//! The beginning and the end of the daemon's threads.

use std::{
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::DaemonError;
use crate::command::EngineHandle;

/// Time that the threads get to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

pub(super) fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DaemonError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(start_error)
}

pub(super) fn start_error(source: io::Error) -> DaemonError {
    let what = "a thread";
    DaemonError::Start { what, source }
}

/// Waits for the threads to end, each with its last work done.
pub(super) fn end(threads: Vec<JoinHandle<()>>, engine: EngineHandle) {
    // The loop that answers without sampling waits for commands: there will be no more.
    drop(engine);
    let deadline = Instant::now() + SHUTDOWN;
    for thread in threads {
        // One may wait for its next round.
        thread.thread().unpark();
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if !thread.is_finished() {
            tracing::warn!(thread = name, "did not end in time");
        } else if thread.join().is_err() {
            tracing::error!(thread = name, "panicked");
        }
    }
}

//! Makes what was sampled until now queryable.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::status::ApiError;
use crate::command::{Command, EngineHandle};

/// Longest wait for a window to be named: names of a large program are read from its files the first time.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(20);

/// Ends windows early, one at a time. Requests that come while one is ended share the next end: windows cut as fast as
/// requests come would crowd out older ones.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// When the last end that succeeded was asked for.
    last: Mutex<Option<Instant>>,
}

impl Flush {
    /// Returns when all samples taken before this call are in the store, or counted as lost.
    pub(super) async fn up_to_now(&self, engine: &EngineHandle) -> Result<(), ApiError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if last.is_some_and(|started| started >= asked) {
            return Ok(());
        }
        let started = Instant::now();
        let answer = engine.ask(|reply| Command::Flush { reply });
        match tokio::time::timeout(FLUSH_TIMEOUT, answer).await {
            Ok(flushed) => flushed??,
            Err(_elapsed) => {
                return Err(ApiError::Slow {
                    what: "the naming of samples",
                    limit: FLUSH_TIMEOUT,
                });
            }
        }
        *last = Some(started);
        Ok(())
    }
}

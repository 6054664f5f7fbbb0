//! Ctrl-C: once ends a recording, otherwise the command.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// Takes Ctrl-C from where this is made on; before, it ends the program as usual.
#[derive(Debug)]
pub(super) struct Interrupt {
    signal: Signal,
}

impl Interrupt {
    /// Begins to listen.
    pub(super) fn new() -> Result<Self, CliError> {
        let signal = signal(SignalKind::interrupt()).map_err(|source| CliError::Runtime { source })?;
        Ok(Self { signal })
    }

    /// Returns at the next Ctrl-C.
    pub(super) async fn wait(&mut self) {
        if self.signal.recv().await.is_none() {
            // No more signals will come.
            std::future::pending::<()>().await;
        }
    }

    /// Does something unless Ctrl-C comes first.
    pub(super) async fn guard<T>(&mut self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        tokio::select! {
            biased;
            () = self.wait() => Err(CliError::Interrupted),
            result = work => result,
        }
    }
}

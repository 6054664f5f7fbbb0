//! Answers to commands on a host where nothing can be sampled: what is asked for, and why it cannot be had.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use profiler_common::python::PythonLayout;
use profiler_unwinding::RowTable;
use tokio::sync::mpsc;

use crate::{
    command::{Command, EngineStatus, FlushError, MappedError, WatchError},
    kernel::records::Pid,
    processes::{
        Now, Processes,
        walker_tables::{TableError, TableId, WalkerMapping, WalkerTables},
    },
};

/// No walker: processes can be described, nothing is ever walked.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWalker;

impl WalkerTables for NoWalker {
    fn install(&mut self, _table: &RowTable) -> Result<TableId, TableError> {
        Err(TableError::NoWalker)
    }
    fn remove(&mut self, _table: TableId) {}
    fn set_process(
        &mut self,
        _pid: Pid,
        _mappings: &[WalkerMapping],
        _python: Option<&PythonLayout>,
    ) -> Result<u32, TableError> {
        Err(TableError::NoWalker)
    }
    fn remove_process(&mut self, _pid: Pid) {}
    fn watched(&self) -> Vec<Pid> {
        Vec::new()
    }
}

/// Answers until it is told to stop, or nobody can ask any more. `reason` is why nothing is sampled.
pub fn answer(
    mut processes: Processes<NoWalker>,
    reason: &str,
    mut commands: mpsc::Receiver<Command>,
    stop: &Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Acquire) {
        let Some(command) = commands.blocking_recv() else {
            return;
        };
        let reason = reason.to_owned();
        let taken = match command {
            Command::Flush { reply } => reply.send(Err(FlushError::NotSampling { reason })).is_ok(),
            Command::ListProcesses { pid, reply } => reply.send(processes.list(pid)).is_ok(),
            Command::ListMembers { reply } => reply.send(processes.members()).is_ok(),
            Command::Watch { reply, .. } => reply.send(Err(WatchError::Unsupported { reason })).is_ok(),
            Command::TakeMapped { reply, .. } => reply.send(Err(MappedError::Refused { reason })).is_ok(),
            Command::EndWatch { .. } | Command::Restrain(_) => true,
            Command::WatchProgress { reply, .. } => reply.send(None).is_ok(),
            Command::Configure { targets, reply, .. } => {
                processes.set_targets(targets, Now::read());
                reply.send(()).is_ok()
            }
            Command::Status { reply } => reply.send(EngineStatus::default()).is_ok(),
        };
        if !taken {
            tracing::trace!("nobody waits for an answer any more");
        }
    }
}

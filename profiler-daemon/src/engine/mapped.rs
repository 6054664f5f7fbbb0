//! What the sampling loop does for those who ask for exact stacks of calls for memory.

use profiler_common::mapped::MappedCounter;

use super::{Engine, LOST_NAMING_BACKLOG, losses::Losses};
use crate::{
    command::{MappedError, MappedStatus, WatchId},
    kernel::{SampleBatch, records::Pid},
    stacks::{mapped::MappedWindow, moment::Moment},
};

/// Who asks, and what was taken.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) batch: SampleBatch,
    /// After they were delivered.
    losses: Losses,
    /// For whom calls are taken, and of which process. For one at a time: the tracepoint costs the whole host, and what was lost
    /// is known for all that is taken together.
    asker: Option<(WatchId, Pid)>,
}

impl Taking {
    /// Nobody asks yet.
    pub(super) fn new() -> Self {
        Self {
            batch: SampleBatch::default(),
            losses: Losses::of_calls(),
            asker: None,
        }
    }
}

impl Engine {
    /// Takes the calls of a process for the stream that watches it.
    pub(super) fn begin_mapped(&mut self, id: WatchId, pid: Pid) -> Result<(), MappedError> {
        if let Some((_, pid)) = self.mapped.asker {
            return Err(MappedError::Taken { pid });
        }
        self.parts
            .sampler
            .begin_mapped(pid)
            .map_err(|error| MappedError::Refused {
                reason: error.to_string(),
            })?;
        self.mapped.asker = Some((id, pid));
        tracing::info!(pid = pid.0, "taking exact stacks of calls for memory");
        Ok(())
    }

    /// The stream has ended, whatever it watched.
    pub(super) fn end_mapped(&mut self, id: WatchId) {
        if self.mapped.asker.take_if(|(asker, _)| *asker == id).is_some() {
            self.parts.sampler.end_mapped();
        }
    }

    /// Takes the calls of the batch.
    pub(super) fn take_mapped(&mut self) {
        let parts = &mut self.parts;
        let (mapped, processes) = (&mut parts.mapped, &mut parts.processes);
        parts
            .sampler
            .decode_mapped(&self.mapped.batch, |call| mapped.on_call(&call, processes));
    }

    /// Ends the window of calls.
    pub(super) fn end_mapped_window(&mut self) -> Option<MappedWindow> {
        let counts = self.parts.sampler.mapped_counts();
        let mapped = &mut self.parts.mapped;
        for counter in MappedCounter::ALL.into_iter().filter(|counter| counter.is_loss()) {
            mapped.note_lost(counter.name(), counts.get(counter));
        }
        let window = mapped.take(Moment::now(), &self.parts.processes)?;
        self.mapped.losses.count(&window.window.lost);
        Some(window)
    }

    /// The window that ended last is dropped: the next says what is missing.
    pub(super) fn carry_mapped(&mut self, window: MappedWindow) {
        let mapped = &mut self.parts.mapped;
        mapped.add_lost(LOST_NAMING_BACKLOG, window.calls());
        for (reason, count) in self.mapped.losses.carry(window.window.lost) {
            mapped.add_lost(reason, *count);
        }
    }

    /// What was taken since the start.
    pub(super) fn mapped_status(&self) -> MappedStatus {
        MappedStatus {
            counts: self.parts.sampler.mapped_counts(),
            lost: self.mapped.losses.totals().clone(),
        }
    }
}

//! What the sampling loop does for those who ask for exact stacks of calls for memory.

use std::collections::BTreeMap;

use profiler_common::mapped::MappedCounter;

use super::{Engine, LOST_NAMING_BACKLOG};
use crate::{
    command::{MappedError, MappedStatus, WatchId},
    kernel::{SampleBatch, records::Pid},
    stacks::{mapped::MappedWindow, moment::Moment},
};

/// Who asks, and what was taken.
#[derive(Debug, Default)]
pub(super) struct Taking {
    pub(super) batch: SampleBatch,
    /// Lost since the start after they were delivered, by reason.
    lost: BTreeMap<String, u64>,
    /// For whom calls are taken, and of which process. For one at a time: the tracepoint costs the whole host, and what was lost
    /// is known for all that is taken together.
    asker: Option<(WatchId, Pid)>,
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
        for (reason, count) in lost_in_daemon(&window.window.lost) {
            *self.mapped.lost.entry(reason).or_default() += count;
        }
        Some(window)
    }

    /// The window that ended last is dropped: the next says what is missing.
    pub(super) fn carry_mapped(&mut self, window: MappedWindow) {
        let mapped = &mut self.parts.mapped;
        mapped.add_lost(LOST_NAMING_BACKLOG, window.calls());
        for (reason, count) in window.window.lost {
            mapped.add_lost(&reason, count);
            // Counted again with the next.
            if let Some(total) = self.mapped.lost.get_mut(&reason) {
                *total = total.saturating_sub(count);
            }
        }
    }

    /// What was taken since the start.
    pub(super) fn mapped_status(&self) -> MappedStatus {
        MappedStatus {
            counts: self.parts.sampler.mapped_counts(),
            lost: self.mapped.lost.clone(),
        }
    }
}

/// Calls that the kernel delivered and that were lost before they were named. What it lost itself is told with its counts.
fn lost_in_daemon(lost: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let is_of_kernel = |reason: &str| MappedCounter::ALL.iter().any(|counter| counter.name() == reason);
    let in_daemon = lost.iter().filter(|(reason, _)| !is_of_kernel(reason));
    in_daemon.map(|(reason, count)| (reason.clone(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_the_kernel_lost_are_not_told_twice() {
        let of_kernel = MappedCounter::ALL.map(|counter| (counter.name().to_owned(), 2));
        let own = ("window_full".to_owned(), 3);
        let lost = of_kernel.into_iter().chain([own.clone()]).collect();
        assert_eq!(lost_in_daemon(&lost), [own].into());
    }
}

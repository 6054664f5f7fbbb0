//! What the sampling loop does for memory: page faults, and victims of want of memory.

use std::time::{Duration, SystemTime};

use profiler_common::memory::FaultCounter;

use super::Engine;
use crate::{
    health::{Part, PartState},
    memory::OomKilled,
    processes::Now,
    stacks::{faults::FaultWindow, moment::Moment},
};

impl Engine {
    /// Takes the faults of the batch.
    pub(super) fn take_faults(&mut self) {
        let parts = &mut self.parts;
        let (faults, processes) = (&mut parts.faults, &mut parts.processes);
        parts
            .sampler
            .decode_faults(&self.fault_batch, |fault| faults.on_fault(&fault, processes));
    }

    /// Notes processes that the kernel ends for want of memory.
    pub(super) fn take_victims(&mut self) {
        let kills = self.parts.sampler.drain_victims();
        if kills.is_empty() {
            return;
        }
        let now_ns = Now::read().monotonic_ns;
        let now = SystemTime::now();
        for kill in kills {
            let ago = Duration::from_nanos(now_ns.saturating_sub(kill.time_ns));
            let (process, start_ticks) = self.parts.processes.label_at(kill.pid, kill.time_ns).unzip();
            let name = process
                .as_ref()
                .map_or_else(String::new, |process| process.name.to_string());
            tracing::warn!(pid = kill.pid.0, %name, "ended by the kernel: memory ran out");
            self.parts.oom_kills.push(OomKilled {
                pid: kill.pid,
                start_ticks: start_ticks.flatten(),
                time: now.checked_sub(ago).unwrap_or(now),
                process,
            });
        }
    }

    /// Attaches the programs for page faults while any process is watched, and says how they do.
    pub(super) fn follow_watched(&mut self) {
        let parts = &mut self.parts;
        let state = match parts.sampler.victims_refused() {
            None => PartState::Active,
            Some(error) => PartState::Unsupported {
                reason: error.to_string(),
                remedy: error.remedy(),
            },
        };
        parts.health.report(Part::OomKills, state);
        let is_anybody_watched = parts.processes.watched_count() > 0;
        parts.sampler.want_faults(is_anybody_watched);
        let state = match parts.sampler.faults_refused() {
            Some(error) => PartState::Unsupported {
                reason: error.to_string(),
                remedy: error.remedy(),
            },
            None => match parts.memory.trouble() {
                Some(trouble) => trouble,
                None if is_anybody_watched => PartState::Active,
                None => PartState::Disabled {
                    reason: "no process is watched".to_owned(),
                },
            },
        };
        parts.health.report(Part::MemoryProfile, state);
    }

    /// Ends the window of page faults.
    pub(super) fn end_fault_window(&mut self) -> Option<FaultWindow> {
        let counts = self.parts.sampler.fault_counts();
        let faults = &mut self.parts.faults;
        for counter in FaultCounter::ALL.into_iter().filter(|counter| counter.is_loss()) {
            faults.note_lost(counter.name(), counts.get(counter));
        }
        let window = faults.take(Moment::now(), Now::read().monotonic_ns, &self.parts.processes);
        if let Some(window) = &window {
            self.fault_losses.count(&window.window.lost);
        }
        window
    }
}

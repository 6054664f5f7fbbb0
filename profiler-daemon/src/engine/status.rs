//! What the sampling loop says of itself.

use profiler_common::{counters::Counter, memory::FaultCounter};

use super::Engine;
use crate::command::EngineStatus;

impl Engine {
    /// What sampling has done since the start.
    pub(super) fn status(&self) -> EngineStatus {
        let sampler = &self.parts.sampler;
        let counts = sampler.counts();
        let tallies = self.parts.processes.tallies();
        let mut lost = self.losses.totals().clone();
        let mut add = |reason: &str, count: u64| {
            if count > 0 {
                *lost.entry(reason.to_owned()).or_default() += count;
            }
        };
        for counter in Counter::ALL.into_iter().filter(|counter| counter.is_loss()) {
            add(
                counter.name(),
                counts.get(counter).saturating_sub(self.counts.get(counter)),
            );
        }
        let (malformed_samples, malformed_records) = sampler.malformed();
        add("malformed_sample", malformed_samples);
        add("malformed_lifecycle_record", malformed_records);
        add("malformed_fault", sampler.malformed_faults());
        add("malformed_call_for_memory", sampler.malformed_mapped());
        let unheard = sampler.fault_counts().get(FaultCounter::EventLost);
        add("oom_kill_lost", unheard + self.parts.oom_kills.dropped());
        add("process_refused", tallies.refused_processes);
        add("unwind_table_job_refused", tallies.refused_jobs);
        add("walker_entry_refused", self.parts.processes.walker().failed_updates());
        let python_stops = self.parts.window.python_stops();
        EngineStatus {
            python_stop_reasons: python_stops
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
            python_processes: self.parts.processes.python_processes(),
            sample_hz: sampler.sample_hz(),
            period: sampler.period(),
            walker_loop: sampler.walker_loop().name().to_owned(),
            expected_runs: counts.expected_runs,
            runs: counts.get(Counter::Runs),
            run_outcomes: Counter::ALL
                .into_iter()
                .filter(|counter| counter.is_outcome())
                .map(|counter| (counter.name().to_owned(), counts.get(counter)))
                .collect(),
            lost,
            lifecycle_records: tallies.records,
            lifecycle_lost: self.lifecycle_lost,
            stop_reasons: self
                .stops
                .iter()
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
            missed_ticks: counts.expected_runs.saturating_sub(counts.get(Counter::Runs)),
            watched_processes: u32::try_from(self.parts.processes.watched_count()).unwrap_or(u32::MAX),
            faults: sampler.fault_counts(),
            faults_lost: self.fault_losses.totals().clone(),
            mapped: self.mapped_status(),
        }
    }
}

//! What the daemon tells of itself: its parts, its cost and what it keeps.

use std::collections::BTreeMap;

use profiler_common::{mapped::MappedCounter, memory::FaultCounter};
use profiler_proto::v1;
use profiler_store::Status as StoreStatus;
use prost_types::Timestamp;

use super::duration;
use crate::{
    budget::{
        Report,
        policy::{Caps, State},
    },
    command::{EngineStatus, MappedStatus},
    health::{Descriptors, OwnCost, Part, PartState},
    kernel::{KernelCost, possible_cpus},
    memory::KeptStatus,
};

/// A part and its state.
pub(in crate::api) fn part(part: Part, state: PartState) -> v1::Part {
    let (state, reason, remedy) = match state {
        PartState::Active => (v1::PartState::Active, String::new(), String::new()),
        PartState::Disabled { reason } => (v1::PartState::Disabled, reason, String::new()),
        PartState::Unsupported { reason, remedy } => (v1::PartState::Unsupported, reason, remedy),
        PartState::Failed { reason, remedy } => (v1::PartState::Failed, reason, remedy),
        PartState::Late { reason, remedy } => (v1::PartState::Late, reason, remedy),
    };
    v1::Part {
        name: part.name().to_owned(),
        state: state.into(),
        reason,
        remedy,
    }
}

/// What sampling has done.
pub(in crate::api) fn sampling(status: &EngineStatus) -> v1::SamplingStatus {
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
    };
    v1::SamplingStatus {
        sample_hz: status.sample_hz,
        effective_hz: status.effective_hz(),
        walker_loop: status.walker_loop.clone(),
        expected_runs: status.expected_runs,
        runs: status.runs,
        run_outcomes: counts(&status.run_outcomes),
        lost: counts(&status.lost),
        lifecycle_records: status.lifecycle_records,
        lifecycle_lost: status.lifecycle_lost,
        stop_reasons: counts(&status.stop_reasons),
        python_stop_reasons: counts(&status.python_stop_reasons),
        python_processes: counts(&status.python_processes),
        missed_ticks: status.missed_ticks,
    }
}

/// What the programs for page faults have done, and what is kept of it.
pub(in crate::api) fn memory_profile(engine: &EngineStatus, kept: KeptStatus) -> v1::MemoryProfileStatus {
    let counts = &engine.faults;
    let outcomes = || {
        counts
            .counters
            .iter()
            .filter(|(counter, _)| **counter != FaultCounter::EventLost)
    };
    // In the kernel, between it and the keeper of pages, and by the keeper: each fault is lost at one of them.
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    let of_kernel = outcomes().filter(|(counter, _)| counter.is_loss());
    let of_kernel = of_kernel.map(|(counter, count)| (counter.name(), *count));
    let of_daemon = engine
        .faults_lost
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count));
    let dropped = [
        ("old_touches_dropped", kept.growth.dropped_touches),
        ("old_processes_dropped", kept.growth.dropped_with_processes),
    ];
    let of_daemon = of_daemon.chain(kept.lost.into_iter().chain(dropped));
    for (reason, count) in of_kernel.chain(of_daemon.filter(|(_, count)| *count > 0)) {
        *lost.entry(reason.to_owned()).or_default() += count;
    }
    let kept = kept.growth;
    v1::MemoryProfileStatus {
        attached: counts.is_attached,
        faults: outcomes().map(|(_, count)| count).sum(),
        delivered: counts.get(FaultCounter::Delivered),
        lost,
        runs: counts.runs,
        time: Some(duration(counts.time)),
        processes: kept.processes,
        pages: kept.pages,
        stacks: kept.stacks,
        thinned_pages: kept.thinned,
    }
}

/// What was taken of calls for memory, and what became of the others.
pub(in crate::api) fn mapped_calls(status: &MappedStatus) -> v1::MappedCallsStatus {
    let counts = &status.counts;
    let of_kernel = counts
        .counters
        .iter()
        .filter(|(counter, count)| counter.is_loss() && **count > 0);
    let of_kernel = of_kernel.map(|(counter, count)| (counter.name(), *count));
    let of_daemon = status.lost.iter().map(|(reason, count)| (reason.as_str(), *count));
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in of_kernel.chain(of_daemon) {
        *lost.entry(reason.to_owned()).or_default() += count;
    }
    v1::MappedCallsStatus {
        pid: counts.pid.map_or(0, |pid| pid.0),
        seen: counts.get(MappedCounter::Seen),
        delivered: counts.get(MappedCounter::Delivered),
        lost,
        runs: counts.runs,
        time: Some(duration(counts.time)),
    }
}

/// What the daemon costs in user space and in the kernel.
pub(in crate::api) fn cost(own: OwnCost, descriptors: Descriptors, kernel: &KernelCost) -> v1::Cost {
    v1::Cost {
        daemon_cpu: Some(duration(own.cpu)),
        kernel_cpu: Some(duration(kernel.time)),
        kernel_runs: kernel.runs,
        resident_anon_bytes: own.resident_anon_bytes,
        resident_shmem_bytes: own.resident_shmem_bytes,
        kernel_bytes: kernel.bytes,
        kernel_cpu_from_statistics: kernel.from_bpf_statistics,
        kernel_bytes_per_cpu: kernel.bytes_per_cpu,
        possible_cpus: possible_cpus(),
        descriptors: descriptors.open,
        max_descriptors: descriptors.most,
    }
}

/// What the daemon may cost, and what it gave up for that.
pub(in crate::api) fn budget(report: &Report, caps: Caps) -> v1::BudgetStatus {
    let state = match report.state {
        State::Within => v1::BudgetState::Within,
        State::Shedding => v1::BudgetState::Shedding,
        State::Exhausted => v1::BudgetState::Exhausted,
    };
    v1::BudgetStatus {
        state: state.into(),
        since: report.since.map(Timestamp::from),
        reason: report.reason.clone(),
        shed: report.shed.clone(),
        sheddings: report.sheddings,
        recoveries: report.recoveries,
        cpu_percent: report.cpu_share * 100.0,
        max_cpu_percent: caps.cpu_share * 100.0,
        memory_bytes: report.memory_bytes,
        max_memory_bytes: caps.memory_bytes,
        kernel_bytes: report.kernel.bytes,
        max_kernel_bytes: caps.kernel_bytes,
    }
}

/// What the store holds.
pub(in crate::api) fn store(status: StoreStatus) -> v1::StoreStatus {
    v1::StoreStatus {
        windows: status.windows as u64,
        bytes: status.bytes as u64,
        capacity_bytes: status.capacity_bytes as u64,
        oldest_time: status.oldest.map(Timestamp::from),
        dropped_by_age: status.dropped.by_age,
        dropped_by_bytes: status.dropped.by_bytes,
        dropped_too_large: status.dropped.too_large,
    }
}

#[cfg(test)]
mod tests {
    use profiler_store::GrowthStatus;

    use super::*;
    use crate::kernel::records::Pid;

    #[test]
    fn calls_lost_anywhere_are_told_with_their_reasons() {
        let mut status = MappedStatus::default();
        status.counts.pid = Some(Pid(7));
        for (counter, count) in [
            (MappedCounter::Seen, 20),
            (MappedCounter::Delivered, 15),
            (MappedCounter::OverQuota, 5),
            (MappedCounter::Busy, 0),
        ] {
            status.counts.counters.insert(counter, count);
        }
        status.lost = [("window_full".to_owned(), 2)].into();
        let told = mapped_calls(&status);
        assert_eq!((told.pid, told.seen, told.delivered), (7, 20, 15));
        let lost = [("over_quota".to_owned(), 5), ("window_full".to_owned(), 2)];
        assert_eq!(told.lost, lost.into());
    }

    #[test]
    fn faults_lost_anywhere_are_told_with_their_reasons() {
        let mut engine = EngineStatus::default();
        engine.faults.counters.insert(FaultCounter::Delivered, 90);
        engine.faults.counters.insert(FaultCounter::RingFull, 3);
        engine.faults_lost = [("window_full".to_owned(), 4), ("naming_backlog".to_owned(), 5)].into();
        let kept = KeptStatus {
            growth: GrowthStatus {
                pages: 70,
                dropped_touches: 6,
                dropped_with_processes: 2,
                ..GrowthStatus::default()
            },
            lost: [("keeper_backlog", 7), ("no_stack", 0), ("not_looked_at", 8)],
        };
        let told = memory_profile(&engine, kept);
        assert_eq!((told.faults, told.delivered, told.pages), (93, 90, 70));
        let expected = [
            ("keeper_backlog", 7),
            ("naming_backlog", 5),
            ("not_looked_at", 8),
            ("old_processes_dropped", 2),
            ("old_touches_dropped", 6),
            ("ring_full", 3),
            ("window_full", 4),
        ];
        let mut lost: Vec<(&str, u64)> = told
            .lost
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count))
            .collect();
        lost.sort_unstable();
        assert_eq!(lost, expected);
    }
}

//! The JSON document of `status`. Names follow the contract; spans are in seconds, times in RFC 3339.

use std::collections::BTreeMap;

use profiler_proto::v1::{
    ApiStatus, BudgetStatus, Cost, GetStatusResponse, MemoryProfileStatus, Part, ReadingsStatus, SamplingStatus,
    StoreStatus,
};
use serde::Serialize;

use super::{budget_name, mapped::MappedCallsDocument, span, state_name};

#[derive(Serialize)]
pub(super) struct Document<'a> {
    version: &'a str,
    start_time: Option<String>,
    kernel_release: &'a str,
    watched_processes: u32,
    parts: Vec<PartDocument<'a>>,
    sampling: SamplingDocument,
    memory_profile: MemoryProfileDocument,
    mapped_calls: MappedCallsDocument,
    cost: CostDocument,
    budget: BudgetDocument,
    store: StoreDocument,
    readings: ReadingsDocument,
    api: ApiDocument,
}

#[derive(Serialize)]
struct PartDocument<'a> {
    name: &'a str,
    state: &'static str,
    reason: &'a str,
    remedy: &'a str,
}

#[derive(Serialize)]
struct SamplingDocument {
    sample_hz: u32,
    effective_hz: f64,
    walker_loop: String,
    expected_runs: u64,
    runs: u64,
    run_outcomes: BTreeMap<String, u64>,
    missed_ticks: u64,
    lost: BTreeMap<String, u64>,
    lifecycle_records: u64,
    lifecycle_lost: u64,
    stop_reasons: BTreeMap<String, u64>,
    python_stop_reasons: BTreeMap<String, u64>,
    python_processes: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct MemoryProfileDocument {
    attached: bool,
    faults: u64,
    delivered: u64,
    lost: BTreeMap<String, u64>,
    runs: u64,
    seconds: f64,
    processes: u64,
    pages: u64,
    stacks: u64,
    thinned_pages: u64,
}

impl From<MemoryProfileStatus> for MemoryProfileDocument {
    fn from(memory: MemoryProfileStatus) -> Self {
        Self {
            attached: memory.attached,
            faults: memory.faults,
            delivered: memory.delivered,
            lost: memory.lost,
            runs: memory.runs,
            seconds: span(memory.time).as_secs_f64(),
            processes: memory.processes,
            pages: memory.pages,
            stacks: memory.stacks,
            thinned_pages: memory.thinned_pages,
        }
    }
}

#[derive(Serialize)]
struct CostDocument {
    daemon_cpu_seconds: f64,
    kernel_cpu_seconds: f64,
    kernel_runs: u64,
    resident_anon_bytes: u64,
    resident_shmem_bytes: u64,
    kernel_bytes: u64,
    kernel_cpu_from_statistics: bool,
    kernel_bytes_per_cpu: u64,
    possible_cpus: u32,
    descriptors: u32,
    max_descriptors: u32,
}

#[derive(Serialize)]
struct BudgetDocument {
    state: &'static str,
    since: Option<String>,
    reason: String,
    shed: Vec<String>,
    sheddings: u64,
    recoveries: u64,
    cpu_percent: f64,
    max_cpu_percent: f64,
    memory_bytes: u64,
    max_memory_bytes: u64,
    kernel_bytes: u64,
    max_kernel_bytes: u64,
}

#[derive(Serialize)]
struct StoreDocument {
    windows: u64,
    bytes: u64,
    capacity_bytes: u64,
    oldest_time: Option<String>,
    dropped_by_age: u64,
    dropped_by_bytes: u64,
    dropped_too_large: u64,
}

#[derive(Serialize)]
struct ReadingsDocument {
    subjects: u64,
    series: u64,
    bytes: u64,
    capacity_bytes: u64,
    dropped_subjects: u64,
    dropped_runs: u64,
    refused_values: u64,
    invalid_values: u64,
    rounds: u64,
    missed_rounds: u64,
    cpu_seconds: f64,
}

impl From<ReadingsStatus> for ReadingsDocument {
    fn from(readings: ReadingsStatus) -> Self {
        Self {
            subjects: readings.subjects,
            series: readings.series,
            bytes: readings.bytes,
            capacity_bytes: readings.capacity_bytes,
            dropped_subjects: readings.dropped_subjects,
            dropped_runs: readings.dropped_runs,
            refused_values: readings.refused_values,
            invalid_values: readings.invalid_values,
            rounds: readings.rounds,
            missed_rounds: readings.missed_rounds,
            cpu_seconds: span(readings.cpu).as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct ApiDocument {
    connections: u32,
    refused_connections: u64,
    refused_watches: u64,
    refused_commands: u64,
}

impl<'a> From<&'a GetStatusResponse> for Document<'a> {
    fn from(status: &'a GetStatusResponse) -> Self {
        let part = |part: &'a Part| PartDocument {
            name: &part.name,
            state: state_name(part.state()),
            reason: &part.reason,
            remedy: &part.remedy,
        };
        Self {
            version: &status.version,
            start_time: status.start_time.map(|time| time.to_string()),
            kernel_release: &status.kernel_release,
            watched_processes: status.watched_processes,
            parts: status.parts.iter().map(part).collect(),
            sampling: status.sampling.clone().unwrap_or_default().into(),
            memory_profile: status.memory_profile.clone().unwrap_or_default().into(),
            mapped_calls: status.mapped_calls.clone().unwrap_or_default().into(),
            cost: status.cost.unwrap_or_default().into(),
            budget: status.budget.clone().unwrap_or_default().into(),
            store: status.store.unwrap_or_default().into(),
            readings: status.readings.unwrap_or_default().into(),
            api: status.api.unwrap_or_default().into(),
        }
    }
}

impl From<SamplingStatus> for SamplingDocument {
    fn from(sampling: SamplingStatus) -> Self {
        Self {
            sample_hz: sampling.sample_hz,
            effective_hz: sampling.effective_hz,
            walker_loop: sampling.walker_loop,
            expected_runs: sampling.expected_runs,
            runs: sampling.runs,
            run_outcomes: sampling.run_outcomes,
            missed_ticks: sampling.missed_ticks,
            lost: sampling.lost,
            lifecycle_records: sampling.lifecycle_records,
            lifecycle_lost: sampling.lifecycle_lost,
            stop_reasons: sampling.stop_reasons,
            python_stop_reasons: sampling.python_stop_reasons,
            python_processes: sampling.python_processes,
        }
    }
}

impl From<Cost> for CostDocument {
    fn from(cost: Cost) -> Self {
        Self {
            daemon_cpu_seconds: span(cost.daemon_cpu).as_secs_f64(),
            kernel_cpu_seconds: span(cost.kernel_cpu).as_secs_f64(),
            kernel_runs: cost.kernel_runs,
            resident_anon_bytes: cost.resident_anon_bytes,
            resident_shmem_bytes: cost.resident_shmem_bytes,
            kernel_bytes: cost.kernel_bytes,
            kernel_cpu_from_statistics: cost.kernel_cpu_from_statistics,
            kernel_bytes_per_cpu: cost.kernel_bytes_per_cpu,
            possible_cpus: cost.possible_cpus,
            descriptors: cost.descriptors,
            max_descriptors: cost.max_descriptors,
        }
    }
}

impl From<BudgetStatus> for BudgetDocument {
    fn from(budget: BudgetStatus) -> Self {
        Self {
            state: budget_name(budget.state()),
            since: budget.since.map(|time| time.to_string()),
            reason: budget.reason,
            shed: budget.shed,
            sheddings: budget.sheddings,
            recoveries: budget.recoveries,
            cpu_percent: budget.cpu_percent,
            max_cpu_percent: budget.max_cpu_percent,
            memory_bytes: budget.memory_bytes,
            max_memory_bytes: budget.max_memory_bytes,
            kernel_bytes: budget.kernel_bytes,
            max_kernel_bytes: budget.max_kernel_bytes,
        }
    }
}

impl From<StoreStatus> for StoreDocument {
    fn from(store: StoreStatus) -> Self {
        Self {
            windows: store.windows,
            bytes: store.bytes,
            capacity_bytes: store.capacity_bytes,
            oldest_time: store.oldest_time.map(|time| time.to_string()),
            dropped_by_age: store.dropped_by_age,
            dropped_by_bytes: store.dropped_by_bytes,
            dropped_too_large: store.dropped_too_large,
        }
    }
}

impl From<ApiStatus> for ApiDocument {
    fn from(api: ApiStatus) -> Self {
        Self {
            connections: api.connections,
            refused_connections: api.refused_connections,
            refused_watches: api.refused_watches,
            refused_commands: api.refused_commands,
        }
    }
}

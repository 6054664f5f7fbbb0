//! What one round of questions to a card brings, and what of it belongs to watched processes and their services.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use crate::{Metric, ProcessId, Reading, Subject, WatchedProcess, source::Moment};

/// The answers of one card.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Of the card and its instances.
    pub(super) readings: Vec<Reading>,
    /// Who uses them.
    pub(super) processes: Vec<GpuProcess>,
}

/// A process on one card or instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GpuProcess {
    /// The UUID of the card or instance.
    pub(super) gpu: Arc<str>,
    /// Its id in the first namespace of the host, which is the daemon's.
    pub(super) pid: u32,
    /// None if the driver does not tell.
    pub(super) memory_bytes: Option<u64>,
    /// Share of time in which a kernel of it ran; none if the card does not tell.
    pub(super) utilization: Option<f64>,
}

/// The processes that are watched, by their ids.
pub(super) type Watched = BTreeMap<u32, WatchedProcess>;

/// Sums of one process or service.
#[derive(Debug, Default)]
struct Share<'a> {
    memory_bytes: Option<u64>,
    utilization: BTreeMap<&'a str, f64>,
}

impl<'a> Share<'a> {
    fn add(&mut self, process: &'a GpuProcess) {
        if let Some(bytes) = process.memory_bytes {
            self.memory_bytes = Some(self.memory_bytes.unwrap_or(0).saturating_add(bytes));
        }
        if let Some(utilization) = process.utilization {
            *self.utilization.entry(&process.gpu).or_default() += utilization;
        }
    }

    fn tell(&self, now: Moment, subject: &Subject, metrics: [Metric; 2], readings: &mut Vec<Reading>) {
        let [memory, utilization] = metrics;
        if let Some(bytes) = self.memory_bytes {
            readings.push(now.reading(memory, subject.clone(), bytes as f64));
        }
        if let Some(busiest) = self.utilization.values().copied().reduce(f64::max) {
            readings.push(now.reading(utilization, subject.clone(), busiest.min(1.0)));
        }
    }
}

/// Adds up what watched processes and their services have of all cards.
pub(super) fn join<'a>(
    now: Moment,
    processes: impl Iterator<Item = &'a GpuProcess>,
    watched: &Watched,
    readings: &mut Vec<Reading>,
) {
    let mut of_processes: BTreeMap<ProcessId, Share<'a>> = BTreeMap::new();
    let mut of_services: BTreeMap<&Arc<str>, Share<'a>> = BTreeMap::new();
    for process in processes {
        let Some(member) = watched.get(&process.pid) else {
            continue;
        };
        of_processes.entry(member.id).or_default().add(process);
        if let Some(service) = &member.service {
            of_services.entry(service).or_default().add(process);
        }
    }
    for (id, share) in of_processes {
        let metrics = [Metric::ProcessGpuMemory, Metric::ProcessGpuUtilization];
        share.tell(now, &id.subject(), metrics, readings);
    }
    for (service, share) in of_services {
        let metrics = [Metric::ServiceGpuMemory, Metric::ServiceGpuUtilization];
        share.tell(now, &Subject::Service(Arc::clone(service)), metrics, readings);
    }
}

/// Those that are watched, by their ids. Of two with one id the later one lives.
pub(super) fn by_pid(wanted: impl IntoIterator<Item = WatchedProcess>) -> Watched {
    let mut watched = Watched::new();
    for process in wanted {
        match watched.entry(process.id.pid) {
            Entry::Vacant(entry) => {
                entry.insert(process);
            }
            Entry::Occupied(mut entry) if entry.get().id < process.id => {
                entry.insert(process);
            }
            Entry::Occupied(_) => {}
        }
    }
    watched
}

//! Services: sums over their processes.
//!
//! What a process counted stays counted when it ends, so that the counters of a service only rise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Details, ProcessId,
    files::{MemoryKinds, Stat},
};
use crate::{
    Metric, Reading, Subject,
    source::{HostFacts, Moment},
};

/// How long the counters of a service are kept that has no process: a restart is no new service.
const KEPT_EMPTY: Duration = Duration::from_secs(600);
/// Most services that are kept.
const MAX_SERVICES: usize = 4096;

/// What counters of a process a service adds up, in this order everywhere.
const DETAIL_COUNTERS: [Metric; 6] = [
    Metric::ServiceMinorFaults,
    Metric::ServiceMajorFaults,
    Metric::ServiceReadBytes,
    Metric::ServiceWrittenBytes,
    Metric::ServiceVoluntarySwitches,
    Metric::ServiceInvoluntarySwitches,
];

/// One process in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) id: ProcessId,
    pub(super) service: &'a Arc<str>,
    /// None if it could not be read.
    pub(super) stat: Option<Stat>,
    pub(super) resident_bytes: Option<u64>,
    /// None between the rounds in which details are read.
    pub(super) details: Option<Details>,
}

/// Sums of all services.
#[derive(Debug)]
pub(super) struct ServiceSums {
    facts: HostFacts,
    services: BTreeMap<Arc<str>, Service>,
    processes: BTreeMap<ProcessId, Counted>,
    /// Times of the first and the last round.
    rounds: Option<(Duration, Duration)>,
}

/// What was added of one process.
#[derive(Debug)]
struct Counted {
    service: Arc<str>,
    cpu_ticks: Option<u64>,
    details: [Option<u64>; 6],
    is_there: bool,
}

/// One service.
#[derive(Debug, Default)]
struct Service {
    cpu_ticks: u64,
    /// None where no process ever told.
    details: [Option<u64>; 6],
    starts: u64,
    exits: u64,
    /// Time and ticks at the last round that read all processes.
    before: Option<(Duration, u64)>,
    empty_since: Option<Duration>,
    round: Round,
}

/// What one round found.
#[derive(Debug, Default)]
struct Round {
    processes: u64,
    threads: u64,
    resident_bytes: u64,
    descriptors: u64,
    kinds: MemoryKinds,
    /// Some process could not be read, and a sum without it would be wrong.
    lacks_cpu: bool,
    lacks_memory: bool,
    lacks_descriptors: bool,
    lacks_kinds: bool,
}

impl ServiceSums {
    pub(super) fn new(facts: HostFacts) -> Self {
        Self {
            facts,
            services: BTreeMap::new(),
            processes: BTreeMap::new(),
            rounds: None,
        }
    }

    /// Adds one round. `unwatched` are processes that live on and are not followed any more. Gives how many services were
    /// left out.
    pub(super) fn add<'a>(
        &mut self,
        now: Moment,
        members: impl Iterator<Item = Member<'a>>,
        unwatched: &BTreeSet<ProcessId>,
        with_details: bool,
        out: &mut Vec<Reading>,
    ) -> u64 {
        let mut left_out = BTreeSet::new();
        for member in members {
            if !self.services.contains_key(member.service) {
                if self.services.len() >= MAX_SERVICES {
                    left_out.insert(Arc::clone(member.service));
                    continue;
                }
                self.services.insert(Arc::clone(member.service), Service::default());
            }
            self.add_member(&member);
        }
        self.count_exits(unwatched);
        let ticks_per_second = self.facts.ticks_per_second as f64;
        self.services.retain(|name, service| {
            let is_kept = service.is_kept(now.since_boot);
            if is_kept {
                service.push(name, ticks_per_second, now, with_details, out);
            }
            service.round = Round::default();
            is_kept
        });
        let first = self.rounds.map_or(now.since_boot, |(first, _)| first);
        self.rounds = Some((first, now.since_boot));
        left_out.len() as u64
    }

    fn add_member(&mut self, member: &Member<'_>) {
        let Some(service) = self.services.get_mut(member.service) else {
            return;
        };
        let started = member.id.started(self.facts);
        // A process may be found late, and then began before the last round. What it counted until then is left out: it
        // would look like a burst.
        let is_start = self.rounds.is_some_and(|(first, _)| started >= first);
        let is_new = self.rounds.is_some_and(|(_, last)| started >= last);
        let counted = self.processes.entry(member.id).or_insert_with(|| {
            service.starts += u64::from(is_start);
            let begin = is_new.then_some(0);
            Counted {
                service: Arc::clone(member.service),
                cpu_ticks: begin,
                details: [begin; 6],
                is_there: false,
            }
        });
        counted.is_there = true;
        counted.service = Arc::clone(member.service);
        let round = &mut service.round;
        round.processes += 1;
        match (member.stat, member.resident_bytes) {
            (Some(stat), resident) => {
                let ticks = passed(&mut counted.cpu_ticks, stat.cpu_ticks);
                service.cpu_ticks = service.cpu_ticks.saturating_add(ticks);
                round.threads = round.threads.saturating_add(stat.threads);
                round.lacks_memory |= resident.is_none();
                round.resident_bytes = round.resident_bytes.saturating_add(resident.unwrap_or(0));
            }
            (None, _) => (round.lacks_cpu, round.lacks_memory) = (true, true),
        }
        let Some((stat, details)) = member.stat.zip(member.details) else {
            (round.lacks_descriptors, round.lacks_kinds) = (true, true);
            return;
        };
        round.lacks_kinds |= details.memory.is_none();
        round.kinds.add(details.memory.unwrap_or_default());
        round.lacks_descriptors |= details.descriptors.is_none();
        round.descriptors = round.descriptors.saturating_add(details.descriptors.unwrap_or(0));
        let values = [
            Some(stat.minor_faults),
            Some(stat.major_faults),
            details.io.map(|(read, _)| read),
            details.io.map(|(_, written)| written),
            details.switches.map(|(voluntary, _)| voluntary),
            details.switches.map(|(_, involuntary)| involuntary),
        ];
        for ((sum, before), value) in service.details.iter_mut().zip(&mut counted.details).zip(values) {
            if let Some(value) = value {
                *sum = Some(sum.unwrap_or(0).saturating_add(passed(before, value)));
            }
        }
    }

    /// Forgets the processes that were not in this round, and counts those that ended.
    fn count_exits(&mut self, unwatched: &BTreeSet<ProcessId>) {
        let services = &mut self.services;
        self.processes.retain(|id, counted| {
            let is_there = std::mem::take(&mut counted.is_there);
            if !is_there
                && !unwatched.contains(id)
                && let Some(service) = services.get_mut(&counted.service)
            {
                service.exits += 1;
            }
            is_there
        });
    }
}

impl MemoryKinds {
    fn add(&mut self, other: Self) {
        let sum = u64::saturating_add;
        *self = Self {
            anonymous: sum(self.anonymous, other.anonymous),
            file: sum(self.file, other.file),
            shared: sum(self.shared, other.shared),
            swap: sum(self.swap, other.swap),
        };
    }
}

/// What a counter rose by since it was last seen: nothing when it is first seen, or fell.
fn passed(before: &mut Option<u64>, now: u64) -> u64 {
    let passed = before.map_or(0, |before| now.saturating_sub(before));
    *before = Some(now);
    passed
}

impl Service {
    fn is_kept(&mut self, now: Duration) -> bool {
        if self.round.processes > 0 {
            self.empty_since = None;
            return true;
        }
        let since = *self.empty_since.get_or_insert(now);
        now.saturating_sub(since) < KEPT_EMPTY
    }

    fn push(
        &mut self,
        name: &Arc<str>,
        ticks_per_second: f64,
        now: Moment,
        with_details: bool,
        out: &mut Vec<Reading>,
    ) {
        let round = &self.round;
        let mut push = |metric: Metric, value: f64| {
            out.push(now.reading(metric, Subject::Service(Arc::clone(name)), value));
        };
        push(Metric::ServiceProcesses, round.processes as f64);
        push(Metric::ServiceStarts, self.starts as f64);
        push(Metric::ServiceExits, self.exits as f64);
        if round.lacks_cpu {
            // The next round is reckoned from a whole one: what was missed would look like a burst otherwise.
            self.before = None;
        } else {
            push(Metric::ServiceCpuTime, self.cpu_ticks as f64 / ticks_per_second);
            let before = self.before.replace((now.since_boot, self.cpu_ticks));
            let cores = before.and_then(|(earlier, ticks)| {
                let seconds = now.seconds_since(earlier)?;
                Some(self.cpu_ticks.saturating_sub(ticks) as f64 / ticks_per_second / seconds)
            });
            // Without a process there is nothing that could use a CPU, and no value either.
            if let Some(cores) = cores.filter(|_| round.processes > 0) {
                push(Metric::ServiceCpu, cores);
            }
        }
        if round.processes > 0 && !round.lacks_memory {
            push(Metric::ServiceMemory, round.resident_bytes as f64);
        }
        if !with_details {
            return;
        }
        if round.processes > 0 && !round.lacks_cpu {
            push(Metric::ServiceThreads, round.threads as f64);
        }
        if round.processes > 0 && !round.lacks_descriptors {
            push(Metric::ServiceDescriptors, round.descriptors as f64);
        }
        if round.processes > 0 && !round.lacks_kinds {
            push(Metric::ServiceMemoryAnonymous, round.kinds.anonymous as f64);
            push(Metric::ServiceMemoryFile, round.kinds.file as f64);
            push(Metric::ServiceMemoryShared, round.kinds.shared as f64);
            push(Metric::ServiceSwap, round.kinds.swap as f64);
        }
        for (metric, sum) in DETAIL_COUNTERS.into_iter().zip(self.details) {
            if let Some(sum) = sum {
                push(metric, sum as f64);
            }
        }
    }
}

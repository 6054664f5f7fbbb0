//! Control groups of chosen processes, version 1 and 2.
//!
//! In: the processes with their services, and the files of their groups below a root path. Out: readings of each group, and
//! of each service how close its groups are to their limits. A limit counts wherever it is set above a group: the share is
//! that of the level that is closest to its own limit, because that is where memory runs out.

mod files;
mod hierarchy;
mod level;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "fuzzing")]
pub(crate) use self::{
    files::{parse_limit, parse_quota, parse_throttling},
    hierarchy::unified_folder,
};
use self::{
    hierarchy::{Hierarchy, Resource, levels},
    level::{Memory, Quota, read_cpu_seconds},
};
use crate::{
    Metric, Reading, Subject,
    file::{KernelFile, ReadError, SMALL_FILE_BYTES, read_once},
    host::parse_mounts,
    process::{MAX_PROCESSES, ProcessId, WatchedProcess},
    source::{Moment, Schedule, Source, SourceReport},
    text,
};

/// Most groups that are read of each resource.
const MAX_GROUPS: usize = 1024;
/// Processes may be moved: how long what is known of one's groups is believed.
const MEMBERSHIP_AGE: Duration = Duration::from_secs(60);
/// How long after a service's last process its count of kills is kept.
const KEPT_EMPTY: Duration = Duration::from_secs(600);

/// Reads the control groups of processes.
#[derive(Debug)]
pub struct ControlGroupSampler {
    root: PathBuf,
    schedule: Schedule,
    processes: BTreeMap<ProcessId, Member>,
    mounts: KernelFile,
    /// Throttled periods of the level at the last round.
    before: BTreeMap<Box<[u8]>, (u64, u64)>,
    kills: BTreeMap<Arc<str>, Kills>,
    buffer: Vec<u8>,
}

/// One process.
#[derive(Debug, Default)]
struct Member {
    service: Option<Arc<str>>,
    /// Its group of each resource, and when that was read.
    groups: [Option<Box<[u8]>>; Resource::ALL.len()],
    read_at: Option<Duration>,
}

/// Kills in the groups of a service.
#[derive(Debug, Default)]
struct Kills {
    total: u64,
    /// Of each group at the last round.
    before: BTreeMap<Box<[u8]>, u64>,
    seen: Duration,
}

/// A group of this round and the services that have processes in it.
type Groups<'a> = BTreeMap<&'a [u8], BTreeSet<&'a Arc<str>>>;

impl ControlGroupSampler {
    /// Reads below `root`, which is `/` but in tests.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            schedule: Schedule::new(Source::ControlGroups),
            processes: BTreeMap::new(),
            mounts: KernelFile::new(root.join("proc/self/mountinfo")),
            before: BTreeMap::new(),
            kills: BTreeMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Sets the processes whose groups are read from now on.
    pub fn watch(&mut self, wanted: impl IntoIterator<Item = WatchedProcess>) {
        let mut before = std::mem::take(&mut self.processes);
        for process in wanted.into_iter().take(MAX_PROCESSES) {
            let mut member = before.remove(&process.id).unwrap_or_default();
            member.service = process.service;
            self.processes.insert(process.id, member);
        }
    }

    /// Reads them if it is their turn. To be called once a second.
    pub fn sample(&mut self, now: Moment, out: &mut Vec<Reading>) {
        if self.schedule.take_turn(now) {
            let result = self.read(now, out);
            self.schedule.settle(now, result);
        }
    }

    /// How it is doing.
    pub fn report(&self) -> Option<SourceReport<'_>> {
        self.schedule.report()
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let mounts = self.mounts.parse(&mut self.buffer, parse_mounts)?;
        let hierarchies = Resource::ALL.map(|resource| Hierarchy::find(resource, &mounts, &self.root));
        if hierarchies.iter().all(Option::is_none) {
            return Err(ReadError::Absent {
                what: "no hierarchy of control groups is mounted",
            });
        }
        self.find_groups(&hierarchies, now.since_boot);
        let mut outcome = Outcome::default();
        let [memory, cpu, cpu_time] = &hierarchies;
        let mut round = Round {
            now,
            buffer: &mut self.buffer,
            out,
        };
        if let Some(hierarchy) = memory {
            let groups = groups_of(&self.processes, Resource::Memory, &mut outcome.left_out);
            round.memory(hierarchy, &groups, &mut self.kills, &mut outcome);
        }
        if let Some(hierarchy) = cpu {
            let groups = groups_of(&self.processes, Resource::Cpu, &mut outcome.left_out);
            round.quotas(hierarchy, &groups, &mut self.before, &mut outcome);
        }
        if let Some(hierarchy) = cpu_time {
            let groups = groups_of(&self.processes, Resource::CpuTime, &mut outcome.left_out);
            round.cpu_time(hierarchy, &groups, &mut outcome);
        }
        outcome.finish()
    }

    /// Reads which groups the processes are in, where that is not known or was read long ago. One that ended keeps what it had
    /// until it is not watched any more.
    fn find_groups(&mut self, hierarchies: &[Option<Hierarchy>; Resource::ALL.len()], now: Duration) {
        let proc_root = self.root.join("proc");
        for (id, member) in &mut self.processes {
            if member.read_at.is_some_and(|at| now.saturating_sub(at) < MEMBERSHIP_AGE) {
                continue;
            }
            member.read_at = Some(now);
            let path = proc_root.join(id.pid.to_string()).join("cgroup");
            if read_once(&path, SMALL_FILE_BYTES, &mut self.buffer).is_err() {
                continue;
            }
            for ((group, hierarchy), resource) in member.groups.iter_mut().zip(hierarchies).zip(Resource::ALL) {
                let found = hierarchy
                    .as_ref()
                    .and_then(|hierarchy| hierarchy.group(resource, &self.buffer));
                *group = found.map(Into::into);
            }
        }
    }
}

/// The groups of one resource with their services.
fn groups_of<'a>(processes: &'a BTreeMap<ProcessId, Member>, resource: Resource, left_out: &mut u64) -> Groups<'a> {
    let mut groups = Groups::new();
    for member in processes.values() {
        let Some(path) = member.groups[resource as usize].as_deref() else {
            continue;
        };
        if groups.len() == MAX_GROUPS && !groups.contains_key(path) {
            *left_out += 1;
            continue;
        }
        groups.entry(path).or_default().extend(&member.service);
    }
    groups
}

/// How a round went. A group that was removed is no failure.
#[derive(Debug, Default)]
struct Outcome {
    left_out: u64,
    any: bool,
    error: Option<ReadError>,
}

impl Outcome {
    fn take<T>(&mut self, result: Result<T, ReadError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.any = true;
                Some(value)
            }
            Err(error) if error.is_gone() => None,
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    fn finish(self) -> Result<u64, ReadError> {
        match self.error {
            Some(error) if !self.any => Err(error),
            _ => Ok(self.left_out),
        }
    }
}

/// One round of reading.
struct Round<'a> {
    now: Moment,
    buffer: &'a mut Vec<u8>,
    out: &'a mut Vec<Reading>,
}

impl Round<'_> {
    fn push(&mut self, path: &[u8], values: impl IntoIterator<Item = (Metric, Option<f64>)>) {
        let subject = Subject::ControlGroup(text::name(path));
        let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        let now = self.now;
        self.out
            .extend(known.map(|(metric, value)| now.reading(metric, subject.clone(), value)));
    }

    /// Adds the highest of the values that the groups of each service have.
    fn push_highest(&mut self, metric: Metric, values: BTreeMap<&Arc<str>, f64>) {
        let now = self.now;
        let readings = values
            .into_iter()
            .map(|(service, value)| now.reading(metric, Subject::Service(Arc::clone(service)), value));
        self.out.extend(readings);
    }

    fn memory(
        &mut self,
        hierarchy: &Hierarchy,
        groups: &Groups<'_>,
        kills: &mut BTreeMap<Arc<str>, Kills>,
        outcome: &mut Outcome,
    ) {
        let mut known: BTreeMap<&[u8], Option<Memory>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (&path, members) in groups {
            let mut limits: Option<(u64, f64)> = None;
            for level in levels(path) {
                let memory = *known.entry(level).or_insert_with(|| {
                    outcome.take(Memory::read(
                        &hierarchy.folder(level),
                        hierarchy.is_unified,
                        self.buffer,
                    ))
                });
                let Some((limit, used)) = memory.and_then(|memory| memory.limit.zip(memory.limit_used())) else {
                    continue;
                };
                let (lowest, highest) = limits.unwrap_or((limit, used));
                limits = Some((lowest.min(limit), highest.max(used)));
            }
            let Some(memory) = known.get(path).copied().flatten() else {
                continue;
            };
            let count = |value: Option<u64>| value.map(|value| value as f64);
            let used = limits.map(|(_, used)| used);
            let values = [
                (Metric::ControlGroupMemory, count(Some(memory.usage))),
                (Metric::ControlGroupWorkingSet, count(Some(memory.working_set))),
                (Metric::ControlGroupMemoryLimit, count(limits.map(|(limit, _)| limit))),
                (Metric::ControlGroupMemoryLimitUsed, used),
                (Metric::ControlGroupMemoryHighEvents, count(memory.high_events)),
                (Metric::ControlGroupMemoryMaxEvents, count(memory.max_events)),
                (Metric::ControlGroupOomKills, count(memory.oom_kills)),
            ];
            self.push(path, values);
            for &service in members {
                if let Some(used) = used {
                    raise(services.entry(service).or_insert(used), used);
                }
                if let Some(killed) = memory.oom_kills {
                    let kills = kills.entry(Arc::clone(service)).or_default();
                    kills.add(path, killed, self.now.since_boot);
                }
            }
        }
        self.push_highest(Metric::ServiceMemoryLimitUsed, services);
        self.push_kills(kills);
    }

    fn push_kills(&mut self, kills: &mut BTreeMap<Arc<str>, Kills>) {
        let now = self.now;
        kills.retain(|_, kills| now.since_boot.saturating_sub(kills.seen) < KEPT_EMPTY);
        self.out.extend(kills.iter().map(|(service, kills)| {
            let subject = Subject::Service(Arc::clone(service));
            now.reading(Metric::ServiceOomKills, subject, kills.total as f64)
        }));
    }

    fn quotas(
        &mut self,
        hierarchy: &Hierarchy,
        groups: &Groups<'_>,
        before: &mut BTreeMap<Box<[u8]>, (u64, u64)>,
        outcome: &mut Outcome,
    ) {
        let mut known: BTreeMap<&[u8], Option<(Quota, Option<f64>)>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (&path, members) in groups {
            let (mut cores, mut throttled): (Option<f64>, Option<f64>) = (None, None);
            for level in levels(path) {
                let entry = known.entry(level).or_insert_with(|| {
                    let quota = Quota::read(&hierarchy.folder(level), hierarchy.is_unified, self.buffer);
                    let quota = outcome.take(quota)?;
                    Some((quota, throttled_since(&quota, before.get(level))))
                });
                let Some((quota, share)) = *entry else { continue };
                cores = lower(cores, quota.cores);
                throttled = higher(throttled, share);
            }
            let Some((quota, _)) = known.get(path).copied().flatten() else {
                continue;
            };
            let throttling = quota.throttling;
            let values = [
                (Metric::ControlGroupCpuLimit, cores),
                (Metric::ControlGroupThrottled, throttled),
                (
                    Metric::ControlGroupPeriods,
                    throttling.map(|counts| counts.periods as f64),
                ),
                (
                    Metric::ControlGroupThrottledPeriods,
                    throttling.map(|counts| counts.throttled as f64),
                ),
                (
                    Metric::ControlGroupThrottledTime,
                    throttling.map(|counts| counts.seconds),
                ),
            ];
            self.push(path, values);
            for &service in members {
                if let Some(throttled) = throttled {
                    raise(services.entry(service).or_insert(throttled), throttled);
                }
            }
        }
        *before = known
            .into_iter()
            .filter_map(|(path, known)| {
                let counts = known?.0.throttling?;
                Some((path.into(), (counts.periods, counts.throttled)))
            })
            .collect();
        self.push_highest(Metric::ServiceCpuThrottled, services);
    }

    fn cpu_time(&mut self, hierarchy: &Hierarchy, groups: &Groups<'_>, outcome: &mut Outcome) {
        for &path in groups.keys() {
            let seconds = read_cpu_seconds(&hierarchy.folder(path), hierarchy.is_unified, self.buffer);
            let seconds = outcome.take(seconds);
            self.push(path, [(Metric::ControlGroupCpuTime, seconds)]);
        }
    }
}

/// The share of the periods since the last round that were throttled, of a group with a quota. One that did not run was not
/// throttled.
fn throttled_since(quota: &Quota, before: Option<&(u64, u64)>) -> Option<f64> {
    let (_, now, before) = (quota.cores?, quota.throttling?, before?);
    let periods = now.periods.checked_sub(before.0)?;
    let throttled = now.throttled.checked_sub(before.1)?;
    match periods {
        0 => Some(0.0),
        _ => Some((throttled as f64 / periods as f64).min(1.0)),
    }
}

impl Kills {
    /// Adds what a group counted since it was last seen. What it counted before it was first seen is of the past.
    fn add(&mut self, path: &[u8], killed: u64, now: Duration) {
        let before = self.before.insert(path.into(), killed);
        let passed = killed.saturating_sub(before.unwrap_or(killed));
        self.total = self.total.saturating_add(passed);
        if self.before.len() > MAX_GROUPS {
            self.before.pop_first();
        }
        self.seen = now;
    }
}

fn raise(highest: &mut f64, value: f64) {
    *highest = highest.max(value);
}

fn higher(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn lower(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::min)
}

#[cfg(test)]
mod tests;

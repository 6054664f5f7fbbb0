//! Control groups of chosen processes, version 1 and 2.
//!
//! In: the processes with their services, and the files of their groups below a root path. Out: readings of each group, and
//! of each service how close its groups are to their limits. A limit counts wherever it is set above a group: the share is
//! that of the level that is closest to its own limit, because that is where memory runs out.

mod files;
mod hierarchy;
mod kills;
mod level;
mod round;

use std::{
    collections::BTreeMap,
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
    hierarchy::{Hierarchy, Resource},
    kills::Kills,
    round::{Groups, Outcome, Round},
};
use crate::{
    Reading,
    file::{KernelFile, ReadError, SMALL_FILE_BYTES, read_once},
    host::parse_mounts,
    process::{MAX_PROCESSES, ProcessId, WatchedProcess},
    source::{Moment, Schedule, Source, SourceReport},
};

/// Most groups that are read of each resource.
const MAX_GROUPS: usize = 1024;
/// Processes may be moved: how long what is known of one's groups is believed.
const MEMBERSHIP_AGE: Duration = Duration::from_secs(60);
/// Reads the control groups of processes.
#[derive(Debug)]
pub struct ControlGroupSampler {
    root: PathBuf,
    schedule: Schedule,
    processes: BTreeMap<ProcessId, Member>,
    mounts: KernelFile,
    /// Throttled periods of the level at the last round.
    before: BTreeMap<Box<[u8]>, (u64, u64)>,
    kills: Kills,
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

impl ControlGroupSampler {
    /// Reads below `root`, which is `/` but in tests.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            schedule: Schedule::new(Source::ControlGroups),
            processes: BTreeMap::new(),
            mounts: KernelFile::new(root.join("proc/self/mountinfo")),
            before: BTreeMap::new(),
            kills: Kills::default(),
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

#[cfg(test)]
mod tests;

//! Chosen processes, and the services that they make up.
//!
//! In: which processes, with the service of each, and their files below `proc` of a root path. Out: readings of each process
//! and each service. A process is told from a later one with the same id by its start.

mod details;
mod files;
mod held;
mod listeners;
mod services;
mod tracked;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "fuzzing")]
pub(crate) use self::files::{add_listening, parse_io, parse_memory_kinds, parse_switches};
pub(crate) use self::files::{parse_proportional, parse_resident_pages, parse_stat};
use self::{
    details::{DetailReader, Details},
    held::HeldMemory,
    listeners::{Listening, MAX_LOOKS, Networks},
    services::{Member, ServiceSums},
    tracked::Tracked,
};
use crate::{
    Metric, Reading, Subject, SubjectGrowth,
    file::ReadError,
    source::{HostFacts, Moment, Schedule, Source, SourceReport},
};

/// Most processes that are read.
pub const MAX_PROCESSES: usize = 10_000;
/// Descriptors of one process that are kept open.
const FILES_OF_PROCESS: usize = 2;

/// A process and no later one with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Its id in the namespace of the daemon.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: when it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessId {
    /// When it started, since boot.
    fn started(self, facts: HostFacts) -> Duration {
        Duration::try_from_secs_f64(self.start_ticks as f64 / facts.ticks_per_second as f64).unwrap_or(Duration::MAX)
    }

    pub(crate) fn subject(self) -> Subject {
        Subject::Process {
            pid: self.pid,
            start_ticks: self.start_ticks,
        }
    }
}

/// A process to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedProcess {
    /// Which.
    pub id: ProcessId,
    /// The service that it is counted to.
    pub service: Option<Arc<str>>,
    /// When it executed its program, since boot, if that is known; otherwise its start counts.
    pub executed: Option<Duration>,
}

/// Reads processes and adds them up to services.
#[derive(Debug)]
pub struct ProcessSampler {
    proc_root: PathBuf,
    facts: HostFacts,
    /// Processes whose files stay open.
    max_kept: usize,
    kept: usize,
    left_out: u64,
    /// Services that had no room in the last round.
    services_left_out: u64,
    processes: BTreeMap<ProcessId, Tracked>,
    /// Processes that are not watched any more and went on when they were last looked at.
    unwatched: BTreeSet<ProcessId>,
    schedule: Schedule,
    detail_schedule: Schedule,
    listener_schedule: Schedule,
    details: DetailReader,
    networks: Networks,
    services: ServiceSums,
    held: HeldMemory,
    growth_schedule: Schedule,
    growth_is_new: bool,
    buffer: Vec<u8>,
}

impl ProcessSampler {
    /// Reads below `root`, which is `/` but in tests. At most `max_kept_files` descriptors stay open; files of processes
    /// beyond are opened each time.
    pub fn new(root: &Path, facts: HostFacts, max_kept_files: usize) -> Self {
        let proc_root = root.join("proc");
        Self {
            details: DetailReader::new(&proc_root),
            proc_root,
            facts,
            max_kept: max_kept_files / FILES_OF_PROCESS,
            kept: 0,
            left_out: 0,
            services_left_out: 0,
            processes: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            schedule: Schedule::new(Source::Processes),
            detail_schedule: Schedule::new(Source::ProcessDetails),
            listener_schedule: Schedule::new(Source::Listeners),
            networks: Networks::default(),
            services: ServiceSums::new(facts),
            held: HeldMemory::default(),
            growth_schedule: Schedule::new(Source::MemoryGrowth),
            growth_is_new: false,
            buffer: Vec::new(),
        }
    }

    /// Sets the processes to read from now on; at most [`MAX_PROCESSES`] are.
    pub fn watch(&mut self, wanted: impl IntoIterator<Item = WatchedProcess>) {
        let mut before = std::mem::take(&mut self.processes);
        self.left_out = 0;
        let mut new = Vec::new();
        for process in wanted {
            if self.processes.len() + new.len() >= MAX_PROCESSES {
                self.left_out += 1;
                continue;
            }
            match before.remove(&process.id) {
                Some(tracked) => self.insert(process, tracked),
                None => new.push(process),
            }
        }
        for (id, mut tracked) in before {
            self.kept -= usize::from(tracked.is_kept());
            if tracked.lives_on(id, &mut self.buffer) {
                self.unwatched.insert(id);
            }
        }
        for process in new {
            let keep = self.kept < self.max_kept;
            self.kept += usize::from(keep);
            let tracked = Tracked::new(&self.proc_root, process.id, keep);
            self.insert(process, tracked);
        }
    }

    fn insert(&mut self, process: WatchedProcess, mut tracked: Tracked) {
        tracked.service = process.service;
        let started = process.id.started(self.facts);
        let began = process.executed.map_or(started, |executed| executed.max(started));
        if tracked.began != began {
            // Whatever listened before was of another program.
            (tracked.began, tracked.listening) = (began, Listening::Unknown);
        }
        self.processes.insert(process.id, tracked);
    }

    /// Reads what is due. To be called once a second.
    pub fn sample(&mut self, now: Moment, out: &mut Vec<Reading>) {
        if !self.schedule.take_turn(now) {
            return;
        }
        let result = self.read_processes(now, out);
        self.schedule.settle(now, result);
        let with_details = self.detail_schedule.take_turn(now);
        if with_details {
            let result = self.read_details(now, out);
            self.detail_schedule.settle(now, result);
        }
        if self.listener_schedule.take_turn(now) {
            let result = self.look_for_listeners(now, with_details, out);
            self.listener_schedule.settle(now, result);
        }
        let members = self.processes.iter().filter_map(|(&id, tracked)| {
            let service = tracked.service.as_ref().filter(|_| !tracked.is_gone())?;
            Some(Member {
                id,
                service,
                stat: tracked.stat,
                resident_bytes: tracked.resident_bytes,
                details: tracked.details.filter(|_| with_details),
            })
        });
        self.services_left_out = self.services.add(now, members, &self.unwatched, with_details, out);
        let left_out = self.held.add(now, &self.processes, self.facts);
        if self.held.judge(now, out) {
            self.growth_is_new = true;
            self.growth_schedule.settle(now, Ok(left_out));
        }
        self.unwatched.clear();
    }

    /// The verdicts on the memory of processes and services, by subject, if there are new ones: after each minute.
    pub fn new_growth(&mut self) -> Option<Vec<SubjectGrowth>> {
        std::mem::take(&mut self.growth_is_new).then(|| self.held.verdicts().cloned().collect())
    }

    /// How the sources are doing.
    pub fn reports(&self) -> impl Iterator<Item = SourceReport<'_>> {
        let schedules = [
            &self.schedule,
            &self.detail_schedule,
            &self.listener_schedule,
            &self.growth_schedule,
        ];
        schedules.into_iter().filter_map(Schedule::report)
    }

    fn read_processes(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let mut outcome = Outcome::default();
        for (&id, tracked) in &mut self.processes {
            if tracked.is_gone() {
                continue;
            }
            let was_kept = tracked.is_kept();
            outcome.note(tracked.read(id, self.facts, now, &mut self.buffer, out));
            if was_kept && tracked.is_gone() {
                self.kept -= 1;
            }
        }
        outcome.finish(self.left_out + self.services_left_out)
    }

    fn read_details(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let mut outcome = Outcome::default();
        for (&id, tracked) in &mut self.processes {
            let Some(stat) = tracked.stat else { continue };
            let folder = self.proc_root.join(id.pid.to_string());
            let (details, error) = self.details.read(id.pid, &folder, stat.threads, &mut tracked.switches);
            tracked.details = Some(details);
            tracked.push_details(id, now, out);
            // A process that ended meanwhile is found out at the next round.
            outcome.note(error.filter(|error| !error.is_gone()).map_or(Ok(()), Err));
        }
        outcome.finish(0)
    }

    /// Looks for listening sockets where it is time; `all` repeats what is known.
    fn look_for_listeners(&mut self, now: Moment, all: bool, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let (mut outcome, mut looks) = (Outcome::default(), 0);
        self.networks.begin_round();
        for (&id, tracked) in &mut self.processes {
            if tracked.is_gone() {
                continue;
            }
            if tracked.listening.is_due(tracked.began, now.since_boot) {
                if looks == MAX_LOOKS {
                    // It is looked at in the next round.
                    continue;
                }
                looks += 1;
                match self.networks.listens(&self.proc_root.join(id.pid.to_string())) {
                    Ok(listens) => {
                        tracked.listening.note(listens, tracked.began, now.since_boot);
                        outcome.note(Ok(()));
                    }
                    Err(error) if error.is_gone() => {}
                    Err(error) => outcome.note(Err(error)),
                }
            }
            let news = tracked.listening.news(now.since_boot);
            if let Some(delay) = news.or_else(|| tracked.listening.delay().filter(|_| all)) {
                out.push(now.reading(Metric::ProcessListenDelay, id.subject(), delay.as_secs_f64()));
            }
        }
        outcome.finish(0)
    }
}

/// How a round over processes went: a failure is told if nothing else was had.
#[derive(Debug, Default)]
struct Outcome {
    any: bool,
    error: Option<ReadError>,
}

impl Outcome {
    fn note(&mut self, result: Result<(), ReadError>) {
        match result {
            Ok(()) => self.any = true,
            Err(error) => self.error = Some(error),
        }
    }

    fn finish(self, left_out: u64) -> Result<u64, ReadError> {
        match self.error {
            Some(error) if !self.any => Err(error),
            _ => Ok(left_out),
        }
    }
}

#[cfg(test)]
mod tests;

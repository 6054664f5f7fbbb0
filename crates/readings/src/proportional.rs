//! Resident memory with each page shared out among those that map it (PSS), of processes and services.
//!
//! In: which processes, and their `smaps_rollup` below `proc` of a root path. Out: readings of each process, and of each
//! service all of whose processes were read. The kernel walks all pages of a process for it, some 36 ms for each GiB of
//! small pages, and holds the lock of its address space meanwhile. So it is read rarely: one process at a time, none again
//! before [`Source::interval`], each followed by a rest that is long against what it may have cost, and none that is
//! larger than [`MAX_RESIDENT_BYTES`]. A process that is stuck with that lock held makes its reader wait: this is for a
//! thread of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    Metric, Reading, Subject,
    file::{ReadError, parse_once},
    process::{MAX_PROCESSES, ProcessId, WatchedProcess, parse_proportional, parse_resident_pages, parse_stat},
    source::{HostFacts, Moment, Schedule, Source, SourceReport},
};

/// Larger processes are left out: the lock would be held for too long.
const MAX_RESIDENT_BYTES: u64 = 1 << 30;
/// What the kernel takes for each byte, in picoseconds: 36 ms a GiB.
const PICOSECONDS_PER_BYTE: u64 = 34;
/// How many times as long as a process may have taken is rested after it: a thousandth of a CPU is spent at most.
const REST: u32 = 1000;

/// One process.
#[derive(Debug)]
struct Known {
    service: Option<Arc<str>>,
    /// Its value, if it could be had, and when it was asked for.
    read: Option<(Duration, Option<u64>)>,
}

/// Reads what processes share out.
#[derive(Debug)]
pub struct ProportionalSampler {
    proc_root: PathBuf,
    facts: HostFacts,
    processes: BTreeMap<ProcessId, Known>,
    /// No process is read before.
    rests_until: Duration,
    schedule: Schedule,
    buffer: Vec<u8>,
}

impl ProportionalSampler {
    /// Reads below `root`, which is `/` but in tests.
    pub fn new(root: &Path, facts: HostFacts) -> Self {
        Self {
            proc_root: root.join("proc"),
            facts,
            processes: BTreeMap::new(),
            rests_until: Duration::ZERO,
            schedule: Schedule::new(Source::ProportionalMemory),
            buffer: Vec::new(),
        }
    }

    /// Sets the processes to read from now on.
    pub fn watch(&mut self, wanted: impl IntoIterator<Item = WatchedProcess>) {
        let mut before = std::mem::take(&mut self.processes);
        for process in wanted.into_iter().take(MAX_PROCESSES) {
            let read = before.remove(&process.id).and_then(|known| known.read);
            let service = process.service;
            self.processes.insert(process.id, Known { service, read });
        }
    }

    /// Reads a process if it is time for one. To be called about once a second.
    pub fn sample(&mut self, now: Moment, out: &mut Vec<Reading>) {
        if now.since_boot < self.rests_until {
            return;
        }
        let Some(id) = self.next(now.since_boot) else { return };
        let result = self.read(id, now);
        let value = match &result {
            Ok(value) => *value,
            Err(_) => None,
        };
        if let Some(known) = self.processes.get_mut(&id) {
            known.read = Some((now.since_boot, value));
        }
        if let Some(bytes) = value {
            out.push(now.reading(Metric::ProcessMemoryProportional, id.subject(), bytes as f64));
            self.add_service(id, now, out);
        }
        match result {
            // A process that ended meanwhile, or is too large.
            Ok(None) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => self.schedule.settle(now, Err(error)),
            Ok(Some(_)) => self.schedule.settle(now, Ok(self.left_out())),
        }
    }

    /// How it is doing.
    pub fn report(&self) -> Option<SourceReport<'_>> {
        self.schedule.report()
    }

    /// The process that was read the longest ago, or never, if that is long enough.
    fn next(&self, now: Duration) -> Option<ProcessId> {
        let asked = |known: &Known| known.read.map(|(at, _)| at);
        let (id, known) = self.processes.iter().min_by_key(|(_, known)| asked(known))?;
        let is_due = asked(known).is_none_or(|at| now.saturating_sub(at) >= Source::ProportionalMemory.interval());
        is_due.then_some(*id)
    }

    /// What it shares out; none if it is another process by now, or too large.
    fn read(&mut self, id: ProcessId, now: Moment) -> Result<Option<u64>, ReadError> {
        let folder = self.proc_root.join(id.pid.to_string());
        let stat = parse_once(folder.join("stat"), &mut self.buffer, parse_stat)?;
        let (pages, _) = parse_once(folder.join("statm"), &mut self.buffer, parse_resident_pages)?;
        let resident = pages.saturating_mul(self.facts.page_bytes);
        if stat.start_ticks != id.start_ticks || stat.is_zombie || resident > MAX_RESIDENT_BYTES {
            return Ok(None);
        }
        let cost = Duration::from_nanos(resident.saturating_mul(PICOSECONDS_PER_BYTE) / 1000);
        self.rests_until = now.since_boot + cost * REST;
        match parse_once(folder.join("smaps_rollup"), &mut self.buffer, parse_proportional) {
            Err(error) if error.is_gone() && lacks_rollup(|name| folder.join(name).exists()) => {
                Err(ReadError::Absent {
                    what: "this kernel has no smaps_rollup (Linux 4.14 and newer)",
                })
            }
            read => read.map(Some),
        }
    }

    /// Adds the sum of a service, if all its processes have a value that is not too old.
    fn add_service(&self, id: ProcessId, now: Moment, out: &mut Vec<Reading>) {
        let Some(service) = self.processes.get(&id).and_then(|known| known.service.as_ref()) else {
            return;
        };
        let oldest = now.since_boot.saturating_sub(2 * Source::ProportionalMemory.interval());
        let members = self
            .processes
            .values()
            .filter(|known| known.service.as_ref() == Some(service));
        let sum = members
            .map(|known| known.read.filter(|(at, _)| *at >= oldest).and_then(|(_, bytes)| bytes))
            .try_fold(0_u64, |sum, bytes| Some(sum.saturating_add(bytes?)));
        let subject = Subject::Service(Arc::clone(service));
        out.extend(sum.map(|bytes| now.reading(Metric::ServiceMemoryProportional, subject, bytes as f64)));
    }

    fn left_out(&self) -> u64 {
        let without = |known: &&Known| matches!(known.read, Some((_, None)));
        self.processes.values().filter(without).count() as u64
    }
}

/// Whether a process is there, and its `smaps_rollup` is not. A process that is there at last was there when the other file
/// was asked for; asked the other way round, one that ends in between would speak for the kernel.
fn lacks_rollup(mut has: impl FnMut(&str) -> bool) -> bool {
    !has("smaps_rollup") && has("stat")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        SourceState,
        fake_tree::{FakeTree, sampled, value},
    };

    const FACTS: HostFacts = HostFacts {
        ticks_per_second: 100,
        page_bytes: 4096,
    };

    fn put(tree: &FakeTree, pid: u32, pages: u64, proportional_kib: u64) {
        tree.write(
            &format!("proc/{pid}/stat"),
            format!("{pid} (p) S 1 1 1 0 -1 0 7 0 3 0 1 0 0 0 20 0 1 0 100 0 0\n"),
        );
        tree.write(&format!("proc/{pid}/statm"), format!("{pages} {pages} 0 0 0 0 0\n"));
        tree.write(
            &format!("proc/{pid}/smaps_rollup"),
            format!("0-1 ---p 0 00:00 0 [rollup]\nRss: 1 kB\nPss: {proportional_kib} kB\n"),
        );
    }

    fn watched(pid: u32) -> WatchedProcess {
        WatchedProcess {
            id: ProcessId { pid, start_ticks: 100 },
            service: Some("web".into()),
            executed: None,
        }
    }

    #[test]
    fn one_at_a_time_and_rarely() {
        let tree = FakeTree::new();
        put(&tree, 7, 25_600, 50_000);
        put(&tree, 8, 100, 10);
        let mut sampler = ProportionalSampler::new(tree.root(), FACTS);
        sampler.watch([watched(7), watched(8)]);
        let mut sample = |second| sampled(second, |now, out| sampler.sample(now, out));
        let first = sample(1000);
        assert_eq!(value(&first, Metric::ProcessMemoryProportional), Some(51_200_000.0));
        assert_eq!(
            value(&first, Metric::ServiceMemoryProportional),
            None,
            "not all are known"
        );
        // 100 MiB take some 3.6 ms: 3.6 seconds of rest.
        assert_eq!(sample(1001), []);
        assert_eq!(sample(1003), []);
        let second = sample(1004);
        assert_eq!(value(&second, Metric::ProcessMemoryProportional), Some(10_240.0));
        assert_eq!(value(&second, Metric::ServiceMemoryProportional), Some(51_210_240.0));
        for seconds in [1005, 1100, 1299] {
            assert_eq!(sample(seconds), [], "{seconds}");
        }
        assert!(value(&sample(1300), Metric::ProcessMemoryProportional).is_some());
    }

    #[test]
    fn large_ones_and_others_with_the_same_id_are_left_alone() {
        let tree = FakeTree::new();
        put(&tree, 7, 300_000, 1);
        put(&tree, 8, 10, 1);
        let mut sampler = ProportionalSampler::new(tree.root(), FACTS);
        let mut other = watched(8);
        other.id.start_ticks = 99;
        sampler.watch([watched(7), other, watched(9)]);
        for second in 1000..1010 {
            assert_eq!(sampled(second, |now, out| sampler.sample(now, out)), []);
        }
        assert!(sampler.report().is_none(), "nothing was read, and nothing failed");
        put(&tree, 10, 10, 4);
        sampler.watch([watched(7), watched(10)]);
        let read = sampled(1010, |now, out| sampler.sample(now, out));
        assert_eq!(value(&read, Metric::ProcessMemoryProportional), Some(4096.0));
        assert_eq!(
            value(&read, Metric::ServiceMemoryProportional),
            None,
            "one was left out"
        );
        assert_eq!(sampler.report().unwrap().left_out, 1);
    }

    #[test]
    fn a_kernel_without_it_is_told() {
        let tree = FakeTree::new();
        put(&tree, 7, 10, 1);
        tree.remove("proc/7/smaps_rollup");
        let mut sampler = ProportionalSampler::new(tree.root(), FACTS);
        sampler.watch([watched(7)]);
        assert_eq!(sampled(1000, |now, out| sampler.sample(now, out)), []);
        let state = sampler.report().unwrap().state;
        assert!(
            matches!(state, SourceState::Unsupported { reason } if reason.contains("4.14")),
            "{state:?}"
        );
    }

    #[test]
    fn a_process_that_ends_says_nothing_of_the_kernel() {
        for asked_before_the_end in 0..3 {
            let mut asked = 0;
            let has = |_: &str| {
                asked += 1;
                asked <= asked_before_the_end
            };
            assert!(!lacks_rollup(has), "{asked_before_the_end}");
        }
        assert!(lacks_rollup(|name| name == "stat"));
    }
}

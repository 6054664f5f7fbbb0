//! One process that is read.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    ProcessId,
    details::{Details, Switches},
    files::{Stat, parse_resident_pages, parse_stat},
    listeners::Listening,
};
use crate::{
    Metric, Reading,
    file::{KernelFile, ReadError},
    source::{HostFacts, Moment},
};

/// No process keeps more CPUs busy: the most that x86 kernels are built for.
const MAX_CORES: f64 = 8192.0;

/// What is known of it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) service: Option<Arc<str>>,
    /// When its program began, since boot.
    pub(super) began: Duration,
    /// `/proc/PID/stat` and `statm`; none as soon as the process has ended.
    files: Option<[KernelFile; 2]>,
    keep: bool,
    /// Time and CPU ticks of the last round that could read it.
    before: Option<(Duration, u64)>,
    /// Of this round; none if it could not be read.
    pub(super) stat: Option<Stat>,
    pub(super) resident_bytes: Option<u64>,
    /// What of it no file backs.
    pub(super) anonymous_bytes: Option<u64>,
    pub(super) details: Option<Details>,
    pub(super) switches: Switches,
    pub(super) listening: Listening,
}

impl Tracked {
    pub(super) fn new(proc_root: &Path, id: ProcessId, keep: bool) -> Self {
        let folder = proc_root.join(id.pid.to_string());
        Self {
            service: None,
            began: Duration::ZERO,
            files: Some(["stat", "statm"].map(|name| KernelFile::small(folder.join(name), keep))),
            keep,
            before: None,
            stat: None,
            resident_bytes: None,
            anonymous_bytes: None,
            details: None,
            switches: Switches::default(),
            listening: Listening::Unknown,
        }
    }

    /// Whether it has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.files.is_none()
    }

    /// Whether its files stay open.
    pub(super) fn is_kept(&self) -> bool {
        self.keep && self.files.is_some()
    }

    /// Whether it is still there at a last look.
    pub(super) fn lives_on(&mut self, id: ProcessId, buffer: &mut Vec<u8>) -> bool {
        let Some([stat, _]) = &mut self.files else {
            return false;
        };
        stat.parse(buffer, parse_stat).is_ok_and(|stat| is_alive(&stat, id))
    }

    /// Reads it and adds what it says. A process that has ended is no failure.
    pub(super) fn read(
        &mut self,
        id: ProcessId,
        facts: HostFacts,
        now: Moment,
        buffer: &mut Vec<u8>,
        out: &mut Vec<Reading>,
    ) -> Result<(), ReadError> {
        (self.stat, self.resident_bytes, self.anonymous_bytes) = (None, None, None);
        let Some([stat_file, memory_file]) = &mut self.files else {
            return Ok(());
        };
        let stat = match stat_file.parse(buffer, parse_stat) {
            Ok(stat) if is_alive(&stat, id) => stat,
            Ok(_) => {
                self.files = None;
                return Ok(());
            }
            Err(error) if error.is_gone() => {
                self.files = None;
                return Ok(());
            }
            Err(error) => {
                self.before = None;
                return Err(error);
            }
        };
        // A first thread that has ended has no memory, though the others have; and one that is about to end has none any more.
        let pages = if stat.is_zombie {
            Ok(None)
        } else {
            let pages = memory_file.parse(buffer, parse_resident_pages);
            pages.map(|pages| Some(pages).filter(|(resident, _)| *resident > 0))
        };
        let before = self.before.replace((now.since_boot, stat.cpu_ticks));
        let cores = before.and_then(|(earlier, ticks)| {
            let passed = stat.cpu_ticks.checked_sub(ticks)?;
            Some(passed as f64 / facts.ticks_per_second as f64 / now.seconds_since(earlier)?)
        });
        if cores.is_some_and(|cores| cores > MAX_CORES) {
            return Err(ReadError::malformed(stat_file.path()));
        }
        self.stat = Some(stat);
        out.extend(cores.map(|cores| now.reading(Metric::ProcessCpu, id.subject(), cores)));
        match pages {
            Ok(pages) => {
                let bytes = |pages: u64| pages.checked_mul(facts.page_bytes);
                self.resident_bytes = pages.and_then(|(resident, _)| bytes(resident));
                self.anonymous_bytes = pages.and_then(|(resident, shared)| bytes(resident - shared));
                let bytes = self.resident_bytes.map(|bytes| bytes as f64);
                out.extend(bytes.map(|bytes| now.reading(Metric::ProcessMemory, id.subject(), bytes)));
                Ok(())
            }
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What nothing but the program itself frees: anonymous memory, with what of it was swapped out when that was last read.
    /// None if that could not be read; before it is read for the first time, the process is new here, and nothing of it is
    /// taken to be swapped out: a service that starts processes often would never have a sum otherwise.
    pub(super) fn held_bytes(&self) -> Option<u64> {
        let swapped = match self.details {
            Some(details) => details.memory?.swap,
            None => 0,
        };
        Some(self.anonymous_bytes?.saturating_add(swapped))
    }

    /// Adds what the last round and its details say.
    pub(super) fn push_details(&self, id: ProcessId, now: Moment, out: &mut Vec<Reading>) {
        let Some((stat, details)) = self.stat.zip(self.details) else {
            return;
        };
        let values = [
            (Metric::ProcessThreads, Some(stat.threads)),
            (Metric::ProcessMinorFaults, Some(stat.minor_faults)),
            (Metric::ProcessMajorFaults, Some(stat.major_faults)),
            (Metric::ProcessDescriptors, details.descriptors),
            (Metric::ProcessReadBytes, details.io.map(|(read, _)| read)),
            (Metric::ProcessWrittenBytes, details.io.map(|(_, written)| written)),
            (
                Metric::ProcessVoluntarySwitches,
                details.switches.map(|(voluntary, _)| voluntary),
            ),
            (
                Metric::ProcessInvoluntarySwitches,
                details.switches.map(|(_, involuntary)| involuntary),
            ),
            (
                Metric::ProcessMemoryAnonymous,
                details.memory.map(|kinds| kinds.anonymous),
            ),
            (Metric::ProcessMemoryFile, details.memory.map(|kinds| kinds.file)),
            (Metric::ProcessMemoryShared, details.memory.map(|kinds| kinds.shared)),
            (Metric::ProcessSwap, details.memory.map(|kinds| kinds.swap)),
        ];
        let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        out.extend(known.map(|(metric, value)| now.reading(metric, id.subject(), value as f64)));
    }
}

/// Whether this is the process, and some thread of it runs on.
fn is_alive(stat: &Stat, id: ProcessId) -> bool {
    stat.start_ticks == id.start_ticks && (!stat.is_zombie || stat.threads > 1)
}

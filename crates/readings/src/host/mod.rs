//! The host as a whole, its CPUs, disks and network interfaces.
//!
//! In: the files below `proc` and `sys` of a root path. Out: readings, and for each source how it is doing. A value that
//! cannot be had or makes no sense is left out: it is never a zero.

mod cpu;
mod disks;
mod filesystems;
mod load;
mod memory;
mod mounts;
mod network;
mod pressure;

use std::{fmt, path::Path};

use self::filesystems::Filesystems;
pub(crate) use self::mounts::{Mount, parse_mounts};
#[cfg(feature = "fuzzing")]
pub(crate) use self::{
    cpu::parse_cpu, disks::parse_disks, filesystems::choose as choose_filesystems, load::parse_load,
    memory::parse_memory, network::parse_network, pressure::parse_pressure,
};
use crate::{
    Reading,
    file::ReadError,
    source::{Moment, Schedule, Source, SourceReport},
};

/// One source of the host's readings.
trait Part: fmt::Debug + Send {
    /// Adds what it says now, and gives how many subjects it left out. What could be read is added even where something else
    /// could not.
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError>;
}

/// Reads the host: everything but file systems, which may make their reader wait.
#[derive(Debug)]
pub struct HostSampler {
    parts: Vec<(Schedule, Box<dyn Part>)>,
}

impl HostSampler {
    /// Reads below `root`, which is `/` but in tests.
    pub fn new(root: &Path) -> Self {
        let parts: [(Source, Box<dyn Part>); 8] = [
            (Source::Cpu, Box::new(cpu::Cpu::new(root))),
            (Source::Memory, Box::new(memory::Memory::new(root))),
            (Source::MemoryEvents, Box::new(memory::MemoryEvents::new(root))),
            (Source::Pressure, Box::new(pressure::Pressure::new(root))),
            (Source::Load, Box::new(load::Load::new(root))),
            (Source::Disks, Box::new(disks::Disks::new(root))),
            (Source::Network, Box::new(network::Network::new(root))),
            (Source::OpenFiles, Box::new(load::OpenFiles::new(root))),
        ];
        Self {
            parts: parts.map(|(source, part)| (Schedule::new(source), part)).into(),
        }
    }

    /// Reads each source whose turn it is. To be called once a second.
    pub fn sample(&mut self, now: Moment, out: &mut Vec<Reading>) {
        for (schedule, part) in &mut self.parts {
            if schedule.take_turn(now) {
                let result = part.read(now, out);
                schedule.settle(now, result);
            }
        }
    }

    /// How the sources are doing.
    pub fn reports(&self) -> impl Iterator<Item = SourceReport<'_>> {
        self.parts.iter().filter_map(|(schedule, _)| schedule.report())
    }
}

/// Reads how full the local file systems are. For a thread of its own: a disk that does not answer makes its reader wait,
/// and nothing else should.
#[derive(Debug)]
pub struct FilesystemSampler {
    schedule: Schedule,
    filesystems: Filesystems,
}

impl FilesystemSampler {
    /// Reads below `root`, which is `/` but in tests.
    pub fn new(root: &Path) -> Self {
        Self {
            schedule: Schedule::new(Source::Filesystems),
            filesystems: Filesystems::new(root),
        }
    }

    /// Reads them if it is their turn. To be called at least as often as the source's interval.
    pub fn sample(&mut self, now: Moment, out: &mut Vec<Reading>) {
        if self.schedule.take_turn(now) {
            let result = self.filesystems.read(now, out);
            self.schedule.settle(now, result);
        }
    }

    /// How it is doing.
    pub fn report(&self) -> Option<SourceReport<'_>> {
        self.schedule.report()
    }
}

#[cfg(test)]
mod tests;

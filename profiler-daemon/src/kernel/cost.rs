//! What the programs cost the kernel, as it says itself.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{IterableMap as _, Map, MapData, PerCpuArray},
    programs::Program,
};
use profiler_common::counters::Counter;

use super::sampler::CounterValues;

/// `BPF_MAP_TYPE_PERCPU_HASH`, `BPF_MAP_TYPE_PERCPU_ARRAY` and `BPF_MAP_TYPE_RINGBUF` (include/uapi/linux/bpf.h).
const PER_CPU_TYPES: [u64; 3] = [5, 6, 27];

/// What the programs cost the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCost {
    /// Time in all programs, where BPF statistics are enabled; otherwise the time that the CPU program measured itself, which
    /// leaves out its entry and the runs for processes that are not watched.
    pub time: Duration,
    /// Whether `time` is from BPF statistics.
    pub from_bpf_statistics: bool,
    /// Runs of the CPU program.
    pub runs: u64,
    /// Memory of all maps and programs that this process holds.
    pub bytes: u64,
    /// The part of it that each possible CPU adds.
    pub bytes_per_cpu: u64,
}

/// Reads what the programs cost, on any thread.
pub struct CostReader {
    programs: Vec<OwnedFd>,
    counters: PerCpuArray<MapData, CounterValues>,
}

impl std::fmt::Debug for CostReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CostReader")
            .field("programs", &self.programs)
            .finish_non_exhaustive()
    }
}

impl CostReader {
    /// A reader with descriptors of its own.
    pub(super) fn new(object: &Ebpf, counters: &PerCpuArray<MapData, CounterValues>) -> io::Result<Self> {
        let descriptors = object.programs().filter_map(|(_, program)| match program {
            Program::PerfEvent(program) => program.fd().ok(),
            Program::BtfTracePoint(program) => program.fd().ok(),
            _ => None,
        });
        let programs = descriptors.map(|descriptor| descriptor.as_fd().try_clone_to_owned());
        let counters = MapData::from_fd(counters.map().fd().as_fd().try_clone_to_owned()?).map_err(io::Error::other)?;
        Ok(Self {
            programs: programs.collect::<io::Result<_>>()?,
            counters: PerCpuArray::try_from(Map::PerCpuArray(counters)).map_err(io::Error::other)?,
        })
    }

    /// Time and runs of the programs; memory is left out.
    pub fn time(&self) -> KernelCost {
        let facts = self
            .programs
            .iter()
            .map(|program| DescriptorFacts::read(program.as_fd()));
        let run_time_ns: u64 = facts.filter_map(Result::ok).map(|facts| facts.run_time_ns).sum();
        let from_bpf_statistics = run_time_ns > 0;
        let time_ns = if from_bpf_statistics {
            run_time_ns
        } else {
            self.count(Counter::SampleNanoseconds)
        };
        KernelCost {
            time: Duration::from_nanos(time_ns),
            from_bpf_statistics,
            runs: self.count(Counter::Runs),
            ..KernelCost::default()
        }
    }

    /// Bytes of all maps and programs that this process holds, and what each possible CPU adds to them. Looks at every
    /// descriptor, which takes a while where there are thousands.
    pub fn memory(&self) -> (u64, u64) {
        let held = held();
        (
            held.iter().map(|facts| facts.memory_bytes).sum(),
            held.iter().map(DescriptorFacts::bytes_per_cpu).sum(),
        )
    }

    fn count(&self, counter: Counter) -> u64 {
        let values = self.counters.get(&0, 0).ok();
        values.map_or(0, |values| values.iter().map(|values| values[counter as usize]).sum())
    }
}

/// Runs of a program and the time in them, by BPF statistics.
pub(super) fn program_cost(program: BorrowedFd<'_>) -> Option<(u64, Duration)> {
    let facts = DescriptorFacts::read(program).ok()?;
    Some((facts.runs, Duration::from_nanos(facts.run_time_ns)))
}

/// CPUs that this host may have.
pub fn possible_cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus.max(1)).unwrap_or(u32::MAX))
}

/// Bytes of all maps and programs that this process has descriptors of.
pub(super) fn held_bytes() -> u64 {
    held().iter().map(|facts| facts.memory_bytes).sum()
}

/// What `/proc/self/fdinfo` says of a map or program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DescriptorFacts {
    run_time_ns: u64,
    runs: u64,
    memory_bytes: u64,
    map_type: u64,
    map_id: u64,
    program_id: u64,
}

impl DescriptorFacts {
    fn read(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()));
        Ok(Self::parse(&std::fs::read_to_string(path)?))
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        Self {
            run_time_ns: field("run_time_ns:"),
            runs: field("run_cnt:"),
            memory_bytes: field("memlock:"),
            map_type: field("map_type:"),
            map_id: field("map_id:"),
            program_id: field("prog_id:"),
        }
    }

    /// What each possible CPU adds: per-CPU memory, and rings, of which there is one for so many CPUs.
    fn bytes_per_cpu(&self) -> u64 {
        if PER_CPU_TYPES.contains(&self.map_type) {
            self.memory_bytes / u64::from(possible_cpus())
        } else {
            0
        }
    }
}

/// All maps and programs that this process has descriptors of, each once.
fn held() -> Vec<DescriptorFacts> {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fdinfo") else {
        return Vec::new();
    };
    let texts = descriptors.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let mut seen = HashSet::new();
    texts
        .map(|text| DescriptorFacts::parse(&text))
        .filter(|facts| facts.memory_bytes > 0 && seen.insert((facts.map_id, facts.program_id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_maps_and_programs() {
        let ring = DescriptorFacts::parse("pos:\t0\nmap_type:\t27\nmemlock:\t8192\nmap_id:\t5\n");
        assert_eq!((ring.memory_bytes, ring.map_id, ring.program_id), (8192, 5, 0));
        assert_eq!(ring.bytes_per_cpu(), 8192 / u64::from(possible_cpus()));
        let array = DescriptorFacts::parse("map_type:\t2\nmemlock:\t8192\nmap_id:\t6\n");
        assert_eq!(array.bytes_per_cpu(), 0, "it is as large on any host");
        let program =
            DescriptorFacts::parse("prog_type:\t7\nmemlock:\t4096\nprog_id:\t9\nrun_time_ns:\t77\nrun_cnt:\t3\n");
        assert_eq!(
            (
                program.run_time_ns,
                program.runs,
                program.program_id,
                program.bytes_per_cpu()
            ),
            (77, 3, 9, 0)
        );
        assert_eq!(
            DescriptorFacts::parse("pos:\t0\nflags:\t02\n"),
            DescriptorFacts::default()
        );
    }
}

//! What the programs cost the kernel, as it says itself.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use aya::{Ebpf, programs::Program};
use profiler_common::counters::Counter;

use super::sampler::SamplingCounts;

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
}

/// What the programs of an object cost. `counts` are those of the same moment.
pub(super) fn measure(object: &Ebpf, counts: &SamplingCounts) -> KernelCost {
    let mut cost = KernelCost {
        runs: counts.get(Counter::Runs),
        ..KernelCost::default()
    };
    for (_, program) in object.programs() {
        let descriptor = match program {
            Program::PerfEvent(program) => program.fd(),
            Program::BtfTracePoint(program) => program.fd(),
            _ => continue,
        };
        let Ok(descriptor) = descriptor else { continue };
        let Ok(facts) = DescriptorFacts::read(descriptor.as_fd()) else {
            continue;
        };
        cost.time += Duration::from_nanos(facts.run_time_ns);
    }
    cost.bytes = held_bpf_bytes();
    cost.from_bpf_statistics = !cost.time.is_zero();
    if !cost.from_bpf_statistics {
        cost.time = Duration::from_nanos(counts.get(Counter::SampleNanoseconds));
    }
    cost
}

/// What `/proc/self/fdinfo` says of a map or program.
#[derive(Clone, Copy, Debug, Default)]
struct DescriptorFacts {
    run_time_ns: u64,
    memory_bytes: u64,
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
            memory_bytes: field("memlock:"),
        }
    }
}

/// Bytes of all maps and programs that this process has descriptors of.
fn held_bpf_bytes() -> u64 {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fdinfo") else {
        return 0;
    };
    descriptors
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .map(|text| DescriptorFacts::parse(&text).memory_bytes)
        .sum()
}

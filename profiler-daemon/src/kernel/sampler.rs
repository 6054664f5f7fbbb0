//! Sampling while it runs: clock events, rings, counters.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, MapData, PerCpuArray, RingBuf},
    programs::Program,
    util::online_cpus,
};
use aya_log::EbpfLogger;
use profiler_common::{
    counters::Counter,
    cpu::{CpuSampleHeader, flags},
    limits::{CPUS_PER_RING, FRAME_SLOTS, MAX_RINGS},
    stop::StopReason,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::FromBytes;

use super::{
    lifecycle::{LifecycleRing, MalformedRecord},
    load::{self, LoadError, Loaded, WalkerLoop, take_map},
    perf_event::CpuClock,
    records::{Lifecycle, Pid, RawSample},
    tables::KernelTables,
};

/// Pages of a lifecycle ring: within `kernel.perf_event_mlock_kb` of a stock kernel.
const LIFECYCLE_PAGES: usize = 64;
/// Time for which a ring of samples can hold what its CPUs produce at their deepest.
const RING_SECONDS: f64 = 0.25;
const MIN_RING_BYTES: u32 = 1 << 18;
const MAX_RING_BYTES: u32 = 1 << 23;

/// The rings of samples, and the programs' array that holds them.
type Rings = (Vec<RingBuf<MapData>>, ArrayOfMaps<MapData, MapData>);
type CounterValues = [u64; Counter::ALL.len()];

/// How to sample.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Samples per second and CPU.
    pub sample_hz: u32,
    /// Form of the walker's loop; the newest that the kernel has if `None`.
    pub walker_loop: Option<WalkerLoop>,
    /// Most bytes of rows.
    pub max_row_bytes: u64,
}

/// What the programs counted since they were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SamplingCounts {
    /// Ticks that the clock events should have produced.
    pub expected_runs: u64,
    /// By counter, all CPUs together.
    pub counters: BTreeMap<Counter, u64>,
}

impl SamplingCounts {
    /// One counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.get(&counter).copied().unwrap_or_default()
    }
}

/// Samples as the kernel wrote them. As large as the rings at most.
#[derive(Debug, Default)]
pub struct SampleBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

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

/// Sampling while it runs. All of it ends when this is dropped or the daemon dies: nothing is pinned.
pub struct Sampler {
    object: Ebpf,
    options: SamplerOptions,
    walker_loop: WalkerLoop,
    missing_offsets: Vec<String>,
    clocks: Vec<CpuClock>,
    /// Time counted by clocks of CPUs that went away.
    past_counted: Duration,
    lifecycle: Vec<LifecycleRing>,
    rings: Vec<RingBuf<MapData>>,
    /// Holds the rings in the programs' array.
    _ring_map: ArrayOfMaps<MapData, MapData>,
    counters: PerCpuArray<MapData, CounterValues>,
    /// What the programs say of rare cases.
    diagnostics: Option<EbpfLogger<&'static dyn log::Log>>,
    malformed_samples: u64,
    malformed_lifecycle: u64,
    /// BPF statistics are kept while this is open.
    _statistics: Option<std::os::fd::OwnedFd>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("options", &self.options)
            .field("walker_loop", &self.walker_loop)
            .finish_non_exhaustive()
    }
}

impl Sampler {
    /// Loads the programs and opens the lifecycle rings. CPU clocks start with [`Sampler::start`], so that a scan of `/proc`
    /// fits between: after the rings are open nothing is missed.
    pub fn load(options: SamplerOptions) -> Result<(Self, KernelTables), LoadError> {
        let mut loaded = load::load(options.walker_loop)?;
        let tables = KernelTables::new(&mut loaded.object, options.max_row_bytes)?;
        let cpus = cpus()?;
        let (rings, ring_map) = open_rings(&mut loaded.object, &cpus, options.sample_hz)?;
        let lifecycle = cpus.iter().map(|cpu| open_lifecycle(*cpu)).collect::<Result<_, _>>()?;
        let counters = PerCpuArray::try_from(take_map(&mut loaded.object, "COUNTERS")?)?;
        let diagnostics = match EbpfLogger::init(&mut loaded.object) {
            Ok(logger) => Some(logger),
            Err(error) => {
                tracing::warn!(%error, "diagnostics of the programs in the kernel cannot be read");
                None
            }
        };
        let statistics = match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
            Ok(descriptor) => Some(descriptor),
            Err(error) => {
                tracing::debug!(%error, "no BPF run statistics: the programs' own clock is used for their cost");
                None
            }
        };
        let Loaded {
            object,
            walker_loop,
            missing_offsets,
        } = loaded;
        let sampler = Self {
            object,
            options,
            walker_loop,
            missing_offsets,
            clocks: Vec::new(),
            past_counted: Duration::ZERO,
            lifecycle,
            rings,
            _ring_map: ring_map,
            counters,
            diagnostics,
            malformed_samples: 0,
            malformed_lifecycle: 0,
            _statistics: statistics,
        };
        Ok((sampler, tables))
    }

    /// Starts the clock of each CPU that is online and has none; stops those of CPUs that went away.
    pub fn start(&mut self) -> Result<(), LoadError> {
        let online = cpus()?;
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.clocks)
            .into_iter()
            .partition(|clock| online.contains(&clock.cpu));
        self.clocks = kept;
        self.past_counted += gone.iter().filter_map(|clock| clock.counted().ok()).sum::<Duration>();
        for cpu in online {
            if !self.lifecycle.iter().any(|ring| ring.cpu == cpu) {
                self.lifecycle.push(open_lifecycle(cpu)?);
            }
            if self.clocks.iter().any(|clock| clock.cpu == cpu) {
                continue;
            }
            let program = load::program::<aya::programs::PerfEvent>(&mut self.object, self.walker_loop.program())?;
            let descriptor = program.fd().map_err(|source| LoadError::Program {
                program: "cpu_sample",
                source: Box::new(source),
            })?;
            let clock = CpuClock::start(cpu, self.options.sample_hz, descriptor.as_fd()).map_err(|source| {
                LoadError::PerfEvent {
                    event: "the CPU clock",
                    cpu,
                    source,
                }
            })?;
            self.clocks.push(clock);
        }
        Ok(())
    }

    /// Form of the walker's loop in use.
    pub fn walker_loop(&self) -> WalkerLoop {
        self.walker_loop
    }

    /// Samples per second and CPU.
    pub fn sample_hz(&self) -> u32 {
        self.options.sample_hz
    }

    /// Members of kernel structures that this kernel does not have; what needs them is off.
    pub fn missing_offsets(&self) -> &[String] {
        &self.missing_offsets
    }

    /// Waits until a ring fills, the descriptor `also` is readable, or the time is over.
    pub fn wait(&self, also: &impl AsFd, timeout: Duration) -> io::Result<()> {
        let mut descriptors: Vec<PollFd<'_>> = self
            .lifecycle
            .iter()
            .map(LifecycleRing::descriptor)
            .chain(self.rings.iter().map(|ring| {
                // SAFETY: the ring owns the descriptor and outlives the poll.
                unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(ring)) }
            }))
            .chain([also.as_fd()])
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all lifecycle records, in the order of their times.
    pub fn drain_lifecycle(&mut self) -> Vec<Lifecycle> {
        let mut records = Vec::new();
        let mut malformed: Option<MalformedRecord> = None;
        for ring in &mut self.lifecycle {
            ring.drain(|record| match record {
                Ok(record) => records.push(record),
                Err(error) => {
                    self.malformed_lifecycle += 1;
                    malformed = Some(error);
                }
            });
        }
        if let Some(error) = malformed {
            tracing::warn!(%error, "passed over");
        }
        // Stable: records of one CPU stay in their order where times are equal.
        records.sort_by_key(|record| record.time_ns);
        records
    }

    /// Logs what the programs said of rare cases.
    pub fn log_diagnostics(&mut self) {
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
    }

    /// Takes all samples out of the rings, ring by ring.
    ///
    /// They are copied, so that lifecycle records can be drained between this and looking at them: whatever happened to a
    /// process before a sample of it was taken is in the lifecycle rings by then.
    pub fn drain_samples(&mut self, batch: &mut SampleBatch) {
        batch.bytes.clear();
        batch.ends.clear();
        for ring in &mut self.rings {
            while let Some(item) = ring.next() {
                batch.bytes.extend_from_slice(&item);
                batch.ends.push(batch.bytes.len());
            }
        }
    }

    /// Looks at the samples of a batch.
    pub fn decode_samples(&mut self, batch: &SampleBatch, mut take: impl FnMut(RawSample<'_>)) {
        let mut frames = Vec::with_capacity(FRAME_SLOTS);
        let mut start = 0;
        for end in &batch.ends {
            match decode(&batch.bytes[start..*end], &mut frames) {
                Some(sample) => take(sample),
                None => self.malformed_samples += 1,
            }
            start = *end;
        }
    }

    /// Samples and lifecycle records that did not have their layout: a defect, not a loss of the kernel.
    pub fn malformed(&self) -> (u64, u64) {
        (self.malformed_samples, self.malformed_lifecycle)
    }

    /// What was counted since the start.
    pub fn counts(&self) -> SamplingCounts {
        let period_ns = u64::from(1_000_000_000 / self.options.sample_hz.max(1)).max(1);
        let counted = self.past_counted
            + self
                .clocks
                .iter()
                .filter_map(|clock| clock.counted().ok())
                .sum::<Duration>();
        let mut counters = BTreeMap::new();
        if let Ok(values) = self.counters.get(&0, 0) {
            for counter in Counter::ALL {
                counters.insert(counter, values.iter().map(|values| values[counter as usize]).sum());
            }
        }
        SamplingCounts {
            expected_runs: (counted.as_nanos() / u128::from(period_ns)) as u64,
            counters,
        }
    }

    /// What the programs cost. `counts` are those of the same moment.
    pub fn cost(&self, counts: &SamplingCounts) -> KernelCost {
        let mut cost = KernelCost {
            runs: counts.get(Counter::Runs),
            ..KernelCost::default()
        };
        for (_, program) in self.object.programs() {
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

fn cpus() -> Result<Vec<u32>, LoadError> {
    online_cpus().map_err(|(path, source)| LoadError::Cpus {
        path: path.to_owned(),
        source,
    })
}

fn open_lifecycle(cpu: u32) -> Result<LifecycleRing, LoadError> {
    LifecycleRing::open(cpu, LIFECYCLE_PAGES).map_err(|source| LoadError::PerfEvent {
        event: "lifecycle records",
        cpu,
        source,
    })
}

/// Makes the rings of samples and gives them to the programs.
fn open_rings(object: &mut Ebpf, cpus: &[u32], sample_hz: u32) -> Result<Rings, LoadError> {
    let mut ring_map: ArrayOfMaps<MapData, MapData> = ArrayOfMaps::try_from(take_map(object, "RINGS")?)?;
    let highest = cpus.iter().max().copied().unwrap_or_default();
    let rings = (0..=highest / CPUS_PER_RING)
        .take(MAX_RINGS as usize)
        .map(|index| {
            let sharers = cpus.iter().filter(|cpu| **cpu / CPUS_PER_RING == index).count() as u32;
            let description = aya_obj::Map::new_from_params(
                aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32,
                0,
                0,
                ring_bytes(sharers, sample_hz),
                0,
            );
            let map = MapData::create(description, "SAMPLES", None)?;
            ring_map.set(index, &map, 0)?;
            Ok(RingBuf::try_from(aya::maps::Map::RingBuf(map))?)
        })
        .collect::<Result<_, LoadError>>()?;
    Ok((rings, ring_map))
}

/// A power of two that holds what `cpus` CPUs produce in [`RING_SECONDS`], within bounds.
fn ring_bytes(cpus: u32, sample_hz: u32) -> u32 {
    let record = size_of::<CpuSampleHeader>() + FRAME_SLOTS * size_of::<u64>();
    let bytes = f64::from(cpus.max(1)) * f64::from(sample_hz) * RING_SECONDS * record as f64;
    (bytes as u32).clamp(MIN_RING_BYTES, MAX_RING_BYTES).next_power_of_two()
}

/// The sample in a record, its addresses copied to `frames`; `None` if the record contradicts itself.
pub(crate) fn decode<'a>(record: &'a [u8], frames: &'a mut Vec<u64>) -> Option<RawSample<'a>> {
    let (header, rest) = CpuSampleHeader::read_from_prefix(record).ok()?;
    let (kernel, user) = (usize::from(header.kernel_frames), usize::from(header.user_frames));
    let addresses = rest.get(..(kernel + user) * size_of::<u64>())?;
    frames.clear();
    frames.extend(
        addresses
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes)),
    );
    let (kernel_frames, user_frames) = frames.split_at_checked(kernel)?;
    let name_at = std::mem::offset_of!(CpuSampleHeader, thread_name);
    let thread_name = record.get(name_at..name_at + header.thread_name.len())?;
    let end = thread_name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(thread_name.len());
    Some(RawSample {
        time_ns: header.time_ns,
        pid: Pid(header.pid),
        tid: header.tid,
        generation: header.generation,
        thread_name: &thread_name[..end],
        in_kernel: header.flags & flags::IN_KERNEL != 0,
        kernel_stack_incomplete: header.flags & flags::KERNEL_STACK_INCOMPLETE != 0,
        stop: StopReason::from_number(header.stop)?,
        kernel_frames,
        user_frames,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn header(kernel_frames: u16, user_frames: u16) -> CpuSampleHeader {
        let mut thread_name = [0; 16];
        thread_name[..4].copy_from_slice(b"work");
        CpuSampleHeader {
            time_ns: 1,
            pid: 2,
            tid: 3,
            generation: 4,
            cpu: 5,
            kernel_frames,
            user_frames,
            stop: StopReason::Root as u8,
            flags: flags::IN_KERNEL,
            reserved: 0,
            thread_name,
        }
    }

    #[test]
    fn decodes_both_stacks() {
        let mut record = header(1, 2).as_bytes().to_vec();
        record.extend([10u64, 20, 30].as_bytes());
        // Rings pad records; what follows is not part of one.
        record.extend([0; 8]);
        let mut frames = Vec::new();
        let sample = decode(&record, &mut frames).unwrap();
        assert_eq!((sample.kernel_frames, sample.user_frames), (&[10][..], &[20, 30][..]));
        assert_eq!(
            (sample.thread_name, sample.stop, sample.in_kernel),
            (&b"work"[..], StopReason::Root, true)
        );
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let mut frames = Vec::new();
        assert!(decode(&[], &mut frames).is_none());
        let mut short = header(1, 2).as_bytes().to_vec();
        short.extend([10u64, 20].as_bytes());
        assert!(decode(&short, &mut frames).is_none());
        let mut unknown_stop = header(0, 0);
        unknown_stop.stop = 200;
        assert!(decode(unknown_stop.as_bytes(), &mut frames).is_none());
    }

    #[test]
    fn rings_are_powers_of_two_within_bounds() {
        for (cpus, hertz) in [(1, 1), (2, 99), (16, 99), (16, 4999), (0, 10_000)] {
            let bytes = ring_bytes(cpus, hertz);
            assert!(bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes));
        }
    }
}

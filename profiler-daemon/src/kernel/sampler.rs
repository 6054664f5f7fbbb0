//! Sampling while it runs: clock events, rings, counters.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, MapData, PerCpuArray, RingBuf},
};
use aya_log::EbpfLogger;
use profiler_common::{counters::Counter, limits::ROWS_PER_SHARD, row::Row};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    cost::{self, CostReader},
    cpus::{self, PerCpu},
    faults::Faults,
    lifecycle::{LifecycleRing, MalformedRecord},
    load::{self, LoadError, Loaded, WalkerLoop, take_map},
    mapped::Mapped,
    perf_event::CpuClock,
    records::{Lifecycle, LifecycleEvent, RawSample},
    sample_rings::{self, SampleBatch},
    tables::KernelTables,
};

/// Pages of a lifecycle ring: within `kernel.perf_event_mlock_kb` of a stock kernel.
const LIFECYCLE_PAGES: usize = 64;
/// Memory for rows is taken in shards of this size.
const SHARD_BYTES: u64 = ROWS_PER_SHARD as u64 * size_of::<Row>() as u64;
pub(super) type CounterValues = [u64; Counter::ALL.len()];

/// How to sample.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Samples per second and CPU.
    pub sample_hz: u32,
    /// Form of the walker's loop; the newest that the kernel has if `None`.
    pub walker_loop: Option<WalkerLoop>,
    /// Most bytes of rows.
    pub max_row_bytes: u64,
    /// Most bytes of all maps and programs; rows get what the others leave, but always some.
    pub max_kernel_bytes: u64,
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

/// Sampling while it runs. All of it ends when this is dropped or the daemon dies: nothing is pinned.
pub struct Sampler {
    pub(super) object: Ebpf,
    options: SamplerOptions,
    walker_loop: WalkerLoop,
    missing_offsets: Vec<String>,
    clocks: Vec<CpuClock>,
    /// What one tick of the clocks stands for, as a multiple of the configured period.
    period_factor: u32,
    /// Ticks due to clocks that were stopped.
    past_ticks: u64,
    lifecycle: Vec<LifecycleRing>,
    /// Lifecycle records that are not due yet.
    held: Vec<Lifecycle>,
    rings: Vec<RingBuf<MapData>>,
    /// The programs' array of the rings.
    ring_map: ArrayOfMaps<MapData, MapData>,
    counters: PerCpuArray<MapData, CounterValues>,
    pub(super) faults: Faults,
    pub(super) mapped: Mapped,
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
        let cpus = cpus::online()?;
        let (rings, ring_map) = sample_rings::open(&mut loaded.object, &cpus, options.sample_hz)?;
        let tables = KernelTables::new(&mut loaded.object, row_bytes(&options, cost::held_bytes()))?;
        let mut lifecycle = Vec::new();
        if let Some(failure) = cpus::follow(&mut lifecycle, &cpus, &[], open_lifecycle).failure {
            return Err(failure);
        }
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
            faults,
            mapped,
        } = loaded;
        let sampler = Self {
            object,
            options,
            walker_loop,
            missing_offsets,
            clocks: Vec::new(),
            period_factor: 1,
            past_ticks: 0,
            lifecycle,
            held: Vec::new(),
            rings,
            ring_map,
            counters,
            faults,
            mapped,
            diagnostics,
            malformed_samples: 0,
            malformed_lifecycle: 0,
            _statistics: statistics,
        };
        Ok((sampler, tables))
    }

    /// Starts the clock of each CPU that is online and has none; stops those of CPUs that went away. A clock that stands still
    /// is of a CPU that was away for a while, and its lifecycle ring is as dead.
    pub fn start(&mut self) -> Result<(), LoadError> {
        let online = cpus::online()?;
        let stopped = self
            .clocks
            .iter_mut()
            .filter_map(|clock| (!clock.has_advanced()).then_some(clock.cpu()));
        let stopped: Vec<u32> = stopped.collect();
        let followed = self.follow_lifecycle(&online, &stopped);
        let period_ns = self.period_ns();
        let program = load::program::<aya::programs::PerfEvent>(&mut self.object, self.walker_loop.program())?;
        let program = program.fd().map_err(|source| LoadError::Program {
            program: "cpu_sample",
            source: Box::new(source),
        })?;
        let open = |cpu| {
            CpuClock::start(cpu, period_ns, program.as_fd())
                .map_err(|source| LoadError::perf_event("the CPU clock", cpu, source))
        };
        let changes = cpus::follow(&mut self.clocks, &online, &stopped, open);
        self.past_ticks += self.ticks(&changes.gone);
        followed.and(changes.failure.map_or(Ok(()), Err))
    }

    /// Opens the lifecycle ring of each CPU that came, and closes those of CPUs that went away. What happened on a CPU before
    /// its ring was open is lost, and said to be.
    fn follow_lifecycle(&mut self, online: &[u32], stopped: &[u32]) -> Result<(), LoadError> {
        let changes = cpus::follow(&mut self.lifecycle, online, stopped, open_lifecycle);
        for mut ring in changes.gone {
            self.take_records(&mut ring);
        }
        for _ in changes.come {
            // Of an unknown number: it may be none.
            self.held.push(Lifecycle {
                time_ns: 0,
                event: LifecycleEvent::Lost { count: 0 },
            });
        }
        changes.failure.map_or(Ok(()), Err)
    }

    /// Form of the walker's loop in use.
    pub fn walker_loop(&self) -> WalkerLoop {
        self.walker_loop
    }

    /// Samples per second and CPU, as configured.
    pub fn sample_hz(&self) -> u32 {
        self.options.sample_hz
    }

    /// Time of a CPU that one sample stands for.
    pub fn period(&self) -> Duration {
        Duration::from_nanos(self.period_ns())
    }

    /// Stops all clocks. What they sampled is in the rings then.
    pub fn stop(&mut self) {
        let clocks = std::mem::take(&mut self.clocks);
        self.past_ticks += self.ticks(&clocks);
    }

    /// Makes ticks stand for `factor` times the period of a rate. Clocks must be stopped and rings be empty: rings that are
    /// too small for the rate are replaced. [`Sampler::start`] starts the clocks.
    ///
    /// # Errors
    /// The rings could not be replaced. The rate is as asked for all the same.
    pub fn set_rate(&mut self, sample_hz: u32, factor: u32) -> Result<(), LoadError> {
        self.period_factor = factor.max(1);
        let before = std::mem::replace(&mut self.options.sample_hz, sample_hz);
        if sample_hz != before {
            self.rings = sample_rings::make(&mut self.ring_map, &cpus::online()?, sample_hz)?;
        }
        Ok(())
    }

    /// Takes another cap on all maps and programs; returns how many bytes rows may take of it.
    pub fn set_max_kernel_bytes(&mut self, max_kernel_bytes: u64, row_bytes_now: u64) -> u64 {
        self.options.max_kernel_bytes = max_kernel_bytes;
        row_bytes(&self.options, cost::held_bytes().saturating_sub(row_bytes_now))
    }

    fn period_ns(&self) -> u64 {
        u64::from(1_000_000_000 / self.options.sample_hz.max(1)).max(1) * u64::from(self.period_factor)
    }

    /// Ticks that clocks should have produced.
    fn ticks(&self, clocks: &[CpuClock]) -> u64 {
        let counted: Duration = clocks.iter().filter_map(|clock| clock.counted().ok()).sum();
        (counted.as_nanos() / u128::from(self.period_ns())) as u64
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
            .chain(self.faults.descriptors())
            .chain([self.mapped.descriptor(), also.as_fd()])
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lifecycle records up to a time that is past, in the order of their times.
    ///
    /// Rings are emptied one after the other. Without a limit a record could come before an older one of a ring that was
    /// emptied earlier: the end of a process before its beginning. What is newer waits for the next call.
    pub fn drain_lifecycle(&mut self, until_ns: u64) -> Vec<Lifecycle> {
        let mut rings = std::mem::take(&mut self.lifecycle);
        for ring in &mut rings {
            self.take_records(ring);
        }
        self.lifecycle = rings;
        take_due(&mut self.held, until_ns)
    }

    fn take_records(&mut self, ring: &mut LifecycleRing) {
        let mut malformed: Option<MalformedRecord> = None;
        ring.drain(|record| match record {
            Ok(record) => self.held.push(record),
            Err(error) => {
                self.malformed_lifecycle += 1;
                malformed = Some(error);
            }
        });
        if let Some(error) = malformed {
            tracing::warn!(%error, "passed over");
        }
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
        batch.fill(&mut self.rings);
    }

    /// Looks at the samples of a batch.
    pub fn decode_samples(&mut self, batch: &SampleBatch, take: impl FnMut(RawSample<'_>)) {
        self.malformed_samples += batch.decode(take);
    }

    /// Samples and lifecycle records that did not have their layout: a defect, not a loss of the kernel.
    pub fn malformed(&self) -> (u64, u64) {
        (self.malformed_samples, self.malformed_lifecycle)
    }

    /// What was counted since the start.
    pub fn counts(&self) -> SamplingCounts {
        let mut counters = BTreeMap::new();
        if let Ok(values) = self.counters.get(&0, 0) {
            for counter in Counter::ALL {
                counters.insert(counter, values.iter().map(|values| values[counter as usize]).sum());
            }
        }
        SamplingCounts {
            expected_runs: self.past_ticks + self.ticks(&self.clocks),
            counters,
        }
    }

    /// Reads what the programs cost, from any thread.
    pub fn costs(&self) -> io::Result<CostReader> {
        CostReader::new(&self.object, &self.counters)
    }
}

/// Bytes that rows may take beside `held` bytes of other maps: whole shards, and at least one.
fn row_bytes(options: &SamplerOptions, held: u64) -> u64 {
    let left = options.max_kernel_bytes.saturating_sub(held).max(SHARD_BYTES);
    options.max_row_bytes.min(left / SHARD_BYTES * SHARD_BYTES)
}

/// Takes the records up to a time out of `held`, in the order of their times.
fn take_due(held: &mut Vec<Lifecycle>, until_ns: u64) -> Vec<Lifecycle> {
    // Stable: records of one CPU stay in their order where times are equal.
    held.sort_by_key(|record| record.time_ns);
    let due = held.partition_point(|record| record.time_ns <= until_ns);
    let later = held.split_off(due);
    std::mem::replace(held, later)
}

fn open_lifecycle(cpu: u32) -> Result<LifecycleRing, LoadError> {
    LifecycleRing::open(cpu, LIFECYCLE_PAGES).map_err(|source| LoadError::perf_event("lifecycle records", cpu, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::records::Pid;

    #[test]
    fn rows_get_what_the_cap_leaves() {
        let options = SamplerOptions {
            sample_hz: 99,
            walker_loop: None,
            max_row_bytes: 48 << 20,
            max_kernel_bytes: 64 << 20,
        };
        assert_eq!(row_bytes(&options, 10 << 20), 48 << 20);
        assert_eq!(row_bytes(&options, (20 << 20) + 1), (44 << 20) - SHARD_BYTES);
        assert_eq!(row_bytes(&options, 99 << 20), SHARD_BYTES);
    }

    #[test]
    fn records_of_several_rings_come_in_the_order_of_time() {
        let fork = |time_ns, pid| Lifecycle {
            time_ns,
            event: LifecycleEvent::Fork {
                pid: Pid(pid),
                parent: Pid(1),
            },
        };
        let exit = |time_ns, pid| Lifecycle {
            time_ns,
            event: LifecycleEvent::Exit { pid: Pid(pid) },
        };
        // The second ring was emptied after the first, and after process 3 had both begun and ended.
        let mut held = vec![fork(5, 2), exit(4, 2), exit(9, 3)];
        assert_eq!(take_due(&mut held, 6), [exit(4, 2), fork(5, 2)]);
        held.extend([fork(8, 3), fork(20, 4)]);
        assert_eq!(take_due(&mut held, 12), [fork(8, 3), exit(9, 3)]);
        assert_eq!(take_due(&mut held, 19), []);
        assert_eq!(take_due(&mut held, 20), [fork(20, 4)]);
    }
}

//! The sampling loop: one thread that owns sampling, processes and the current window.
//!
//! In: records and samples of the kernel, commands. Out: windows to be named. It never waits for anything but the
//! kernel's rings and its own waker; what would take long is done by the threads of the builder and of the symbols.

mod losses;
mod mapped;
mod memory;
mod outlet;
mod rate;
mod starting;
mod status;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use losses::Losses;
use mapped::Taking;
use outlet::Outlet;
use profiler_common::{counters::Counter, stop::StopReason};
use starting::StartingWatch;
use tokio::sync::mpsc;

use crate::{
    budget::Restraint,
    command::{Command, FlushError, Reply},
    health::Health,
    kernel::{FaultBatch, KernelTables, SampleBatch, Sampler, SamplingCounts},
    memory::{MemoryHandle, OomKills},
    processes::{Clock, Now, Processes},
    stacks::{
        aggregate::Aggregator,
        faults::{FaultAggregator, FaultWindow},
        mapped::{MappedAggregator, MappedWindow},
        moment::Moment,
        window::StackWindow,
    },
    waker::Waker,
};

/// Longest wait of a turn: rings wake the loop only when they fill.
const TURN: Duration = Duration::from_millis(100);
/// Time between two rounds of upkeep.
const UPKEEP: Duration = Duration::from_secs(1);
/// Time between two attempts to give back what the walker used; each waits for a grace period.
const RECLAIM: Duration = Duration::from_secs(10);
/// Windows that may wait to be named.
pub const NAMING_QUEUE: usize = 2;
/// Reason of loss: the naming of earlier windows takes too long.
const LOST_NAMING_BACKLOG: &str = "naming_backlog";
/// Time after which an error that goes on is logged again.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Errors remembered for that.
const MAX_TOLD: usize = 64;

/// A window to be named, and who waits for it.
#[derive(Debug)]
pub struct Naming {
    /// The window.
    pub window: StackWindow,
    /// The page faults of the same time, if there were any.
    pub faults: Option<FaultWindow>,
    /// The calls for memory of the same time, if there were any.
    pub mapped: Option<MappedWindow>,
    /// Answered when it can be queried.
    pub waiting: Vec<Reply<Result<(), FlushError>>>,
}

/// What a loop is made of.
#[derive(Debug)]
pub struct EngineParts {
    /// Sampling, started.
    pub sampler: Sampler,
    /// The processes, scanned.
    pub processes: Processes<KernelTables>,
    /// The first window.
    pub window: Aggregator,
    /// The page faults of that window.
    pub faults: FaultAggregator,
    /// The calls for memory of that window.
    pub mapped: MappedAggregator,
    /// Processes that were ended for want of memory.
    pub oom_kills: Arc<OomKills>,
    /// Who keeps the pages that were touched.
    pub memory: MemoryHandle,
    /// Where the state of what hears of both is reported.
    pub health: Arc<Health>,
    /// Length of a window.
    pub window_length: Duration,
    /// What the API asks.
    pub commands: mpsc::Receiver<Command>,
    /// Wakes the loop.
    pub waker: Waker,
    /// Set, and the loop woken, to end it.
    pub stop: Arc<AtomicBool>,
}

/// The sampling loop.
#[derive(Debug)]
pub struct Engine {
    parts: EngineParts,
    batch: SampleBatch,
    fault_batch: FaultBatch,
    counts: SamplingCounts,
    stops: BTreeMap<StopReason, u64>,
    /// Lost since the start, in the daemon.
    losses: Losses,
    fault_losses: Losses,
    mapped: Taking,
    lifecycle_lost: u64,
    window_ends: Instant,
    upkeep_due: Instant,
    reclaim_due: Instant,
    /// Errors that were logged, and when.
    told: BTreeMap<String, Instant>,
    starting: Vec<StartingWatch>,
    outlet: Outlet,
    /// Who waits that a window ends.
    flushes: Vec<Reply<Result<(), FlushError>>>,
    /// What is given up now.
    restraint: Restraint,
}

impl Engine {
    /// A loop that has made no turn yet. Its windows go to `naming`.
    pub fn new(mut parts: EngineParts, naming: SyncSender<Naming>) -> Self {
        let now = Instant::now();
        parts
            .processes
            .remember_for_windows_of(outlet::longest(parts.window_length));
        Self {
            counts: parts.sampler.counts(),
            window_ends: now + parts.window_length,
            upkeep_due: now + UPKEEP,
            reclaim_due: now + RECLAIM,
            parts,
            batch: SampleBatch::default(),
            fault_batch: FaultBatch::default(),
            stops: BTreeMap::new(),
            losses: Losses::default(),
            fault_losses: Losses::of_faults(),
            mapped: Taking::new(),
            lifecycle_lost: 0,
            told: BTreeMap::new(),
            starting: Vec::new(),
            outlet: Outlet::new(naming),
            flushes: Vec::new(),
            restraint: Restraint::default(),
        }
    }

    /// Turns until it is told to stop; calls `alive` once a turn. Ends the last window.
    pub fn run(mut self, mut alive: impl FnMut()) {
        while !self.parts.stop.load(Ordering::Acquire) {
            self.turn();
            alive();
        }
        self.end_window(Vec::new());
    }

    fn turn(&mut self) {
        // A window that is due and goes on is looked at again at the next turn.
        let timeout = match self.window_ends.saturating_duration_since(Instant::now()) {
            Duration::ZERO => TURN,
            left => TURN.min(left),
        };
        if let Err(error) = self.parts.sampler.wait(&self.parts.waker, timeout) {
            self.note("cannot wait for the kernel's rings", &error);
            // Without this a lasting error would make the loop spin.
            std::thread::sleep(TURN);
        }
        self.parts.waker.clear();
        self.take();
        let now = Instant::now();
        if self.outlet.is_over(self.window_ends, now) {
            self.end_window(Vec::new());
        }
        while let Ok(command) = self.parts.commands.try_recv() {
            self.answer(command);
        }
        self.end_asked_window();
        self.begin_watches(now);
        if now >= self.upkeep_due {
            self.upkeep_due = now + UPKEEP;
            self.parts.sampler.log_diagnostics();
            self.follow_watched();
            self.parts.processes.follow_clock(Clock::read());
            if let Err(error) = self.parts.sampler.start() {
                self.note("cannot follow CPUs that came or went", &error);
            }
        }
        if now >= self.reclaim_due {
            self.reclaim_due = now
                + if self.restraint.drops_idle_rows {
                    UPKEEP
                } else {
                    RECLAIM
                };
            self.parts.processes.walker_mut().reclaim();
            self.parts.processes.walker_mut().give_back_shards();
        }
    }

    /// Logs an error that may repeat each turn, once a minute.
    fn note(&mut self, what: &str, error: &dyn std::fmt::Display) {
        let text = format!("{what}: {error}");
        self.told.retain(|_, told| told.elapsed() < TELL_AGAIN);
        if self.told.len() < MAX_TOLD && !self.told.contains_key(&text) {
            tracing::error!("{text}");
            self.told.insert(text, Instant::now());
        }
    }

    /// Takes what the kernel has: first the samples out of their rings, then the records, then looks at the samples. A
    /// process is always heard of before its first sample.
    fn take(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        self.parts.sampler.drain_samples(&mut batch);
        self.parts.sampler.drain_faults(&mut self.fault_batch);
        self.parts.sampler.drain_mapped(&mut self.mapped.batch);
        self.take_records();
        self.take_victims();
        let EngineParts {
            sampler,
            processes,
            window,
            ..
        } = &mut self.parts;
        let stops = &mut self.stops;
        sampler.decode_samples(&batch, |sample| {
            *stops.entry(window.on_sample(&sample, processes)).or_default() += 1;
        });
        self.batch = batch;
        self.take_faults();
        self.take_mapped();
    }

    fn take_records(&mut self) {
        // What happened before this moment is in the rings; later records may not all be.
        let before = Now::read();
        let records = self.parts.sampler.drain_lifecycle(before.monotonic_ns);
        for record in &records {
            if let crate::kernel::records::LifecycleEvent::Lost { count } = record.event {
                self.lifecycle_lost += count;
            }
            self.parts.processes.on_lifecycle(record, before);
        }
        self.parts.processes.walker_mut().set_known_until(before.monotonic_ns);
        self.parts.processes.poll(Now::read());
    }

    /// Ends the current window and sends it to be named. Who waits for it is answered when that is done.
    fn end_window(&mut self, waiting: Vec<Reply<Result<(), FlushError>>>) {
        self.window_ends = Instant::now() + self.parts.window_length;
        let counts = self.parts.sampler.counts();
        for counter in Counter::ALL.into_iter().filter(|counter| counter.is_loss()) {
            let lost = counts.get(counter).saturating_sub(self.counts.get(counter));
            self.parts.window.add_lost(counter.name(), lost);
        }
        self.counts = counts;
        let window = self.parts.window.take(Moment::now(), &self.parts.processes);
        // From here on: the one that ended may have been of another length.
        let longest = outlet::longest(self.parts.window_length);
        self.parts.processes.remember_for_windows_of(longest);
        self.losses.count(&window.lost);
        // Also one without samples: that nothing ran is what busier times are compared with.
        let faults = self.end_fault_window();
        let mapped = self.end_mapped_window();
        let naming = Naming {
            window,
            faults,
            mapped,
            waiting,
        };
        let Some(naming) = self.outlet.send(naming) else {
            return;
        };
        let Naming {
            window,
            faults,
            mapped,
            waiting,
        } = naming;
        // In the next windows, so that profiles say what is missing from them: who asks for a span is to hear what was lost in it,
        // and these windows are not in it.
        if let Some(faults) = faults {
            self.parts.faults.add_lost(LOST_NAMING_BACKLOG, faults.touches());
            for (reason, count) in self.fault_losses.carry(faults.window.lost) {
                self.parts.faults.add_lost(reason, *count);
            }
        }
        if let Some(mapped) = mapped {
            self.carry_mapped(mapped);
        }
        let samples: u64 = window.processes.iter().flat_map(|process| process.stops.values()).sum();
        self.parts.window.add_lost(LOST_NAMING_BACKLOG, samples);
        for (reason, count) in self.losses.carry(window.lost) {
            self.parts.window.add_lost(reason, *count);
        }
        for reply in waiting {
            let reason = "the thread that names windows has ended".to_owned();
            send(reply, Err(FlushError::NotSampling { reason }));
        }
    }

    /// Ends the window for those who asked, as soon as there is room for it: until then nothing of it is lost.
    fn end_asked_window(&mut self) {
        self.flushes.retain(|reply| !reply.is_closed());
        if !self.flushes.is_empty() && self.outlet.has_room() {
            // What was sampled until the question was asked belongs to the answer.
            self.take();
            let waiting = std::mem::take(&mut self.flushes);
            self.end_window(waiting);
        }
    }

    fn answer(&mut self, command: Command) {
        let now = Now::read();
        let processes = &mut self.parts.processes;
        match command {
            Command::Flush { reply } => self.flushes.push(reply),
            Command::ListProcesses { pid, reply } => send(reply, processes.list(pid)),
            Command::ListMembers { reply } => send(reply, processes.members()),
            Command::Watch { pid, until, reply } => {
                let start = processes.watch(pid, until, now);
                processes.poll(now);
                match start {
                    Ok(start) => self.starting.push(StartingWatch::new(pid, reply, start)),
                    Err(error) => send(reply, Err(error)),
                }
            }
            Command::EndWatch { id } => {
                processes.end_watch(id, now);
                processes.poll(now);
                self.end_mapped(id);
            }
            Command::TakeMapped { id, pid, reply } => {
                let begun = self.begin_mapped(id, pid);
                send(reply, begun);
            }
            Command::WatchProgress { id, reply } => send(reply, processes.watch_progress(id)),
            Command::Configure {
                targets,
                window,
                sample_hz,
                max_kernel_bytes,
                reply,
            } => {
                processes.set_targets(targets, now);
                let held = processes.walker().shard_bytes();
                let max_row_bytes = self.parts.sampler.set_max_kernel_bytes(max_kernel_bytes, held);
                processes.walker_mut().set_max_row_bytes(max_row_bytes);
                processes.poll(now);
                // The current window keeps the end that it was given.
                self.parts.window_length = window;
                self.set_rate(sample_hz, self.restraint.period_factor);
                send(reply, ());
            }
            Command::Restrain(restraint) => self.restrain(restraint, now),
            Command::Status { reply } => send(reply, self.status()),
        }
    }
}

/// Answers; who asked may have left.
fn send<T>(reply: Reply<T>, answer: T) {
    if reply.send(answer).is_err() {
        tracing::trace!("nobody waits for an answer any more");
    }
}

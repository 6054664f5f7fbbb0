//! The stages and their threads: which can run on this host, and what each is given.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use profiler_config::Config;
use profiler_store::state::Outbox;

use super::{
    DaemonError, PROC_ROOT,
    threads::{spawn, start_error},
};
use crate::{
    alerting::{self, Alerting, AlertingHandle, AlertingParts, Sources},
    api::SharedStore,
    budget::Keeper,
    census::{self, CensusHandle},
    command::{self, EngineHandle},
    engine::{Engine, EngineParts, NAMING_QUEUE},
    health::{Health, Part, PartState, Sentinel},
    kernel::{self, KernelTables, LoadError, Sampler, SamplerOptions, WalkerLoop, records::Pid},
    memory::{MemoryKeeper, MemoryParts, OomKills, SharedMemory},
    naming::Namer,
    notify::ServiceManager,
    processes::{self, Clock, Now, Processes, scan::ProcFs, walker_tables::WalkerTables},
    readings::{Board, Reader},
    reload,
    sinks::{self, Dispatcher},
    stacks::{
        aggregate::Aggregator, codes::PythonCodes, faults::FaultAggregator, limits::WindowLimits,
        mapped::MappedAggregator, moment::Moment,
    },
    unsampled::{self, NoWalker},
    waker::Waker,
};

/// What the stages are built from.
pub(super) struct Stages<'a> {
    pub(super) config: &'a Config,
    pub(super) health: &'a Arc<Health>,
    pub(super) store: &'a SharedStore,
    pub(super) waker: &'a Waker,
    pub(super) engine: &'a EngineHandle,
    pub(super) oom_kills: &'a Arc<OomKills>,
    /// Set once there is one.
    pub(super) memory: &'a SharedMemory,
    /// Calls for memory, while somebody asks for them.
    pub(super) mapped: &'a SharedStore,
    pub(super) stop: &'a Arc<AtomicBool>,
    pub(super) manager: ServiceManager,
}

impl Stages<'_> {
    /// Starts the stages that this host can run.
    pub(super) fn start(
        &self,
        commands: tokio::sync::mpsc::Receiver<command::Command>,
    ) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        match self.sample() {
            Ok((sampler, processes)) => self.start_sampling(sampler, processes, commands),
            Err(Failure::Load(error)) => self.start_unsampled(&error, commands),
            Err(Failure::Daemon(error)) => Err(error),
        }
    }

    /// Starts what holds limits against readings, and tells of it.
    pub(super) fn start_alerting(
        &self,
        readings: &Arc<Board>,
        census: &CensusHandle,
    ) -> Result<(JoinHandle<()>, AlertingHandle), DaemonError> {
        let outbox = Outbox::open(&self.config.state_dir).map_err(alerting::StartError::from)?;
        let host = kernel::host_name();
        let settings = sinks::Settings::new(host.clone(), self.config.alerts.external_url.clone());
        let dispatcher = Dispatcher::start(&self.config.sinks, outbox, settings)?;
        let (alerting, handle) = Alerting::new(AlertingParts {
            limits: self.config.limits_in_force().cloned().collect(),
            state_dir: self.config.state_dir.clone(),
            sources: Sources {
                store: Arc::clone(self.store),
                board: Arc::clone(readings),
                engine: self.engine.clone(),
                memory: Arc::clone(self.memory),
                oom_kills: Arc::clone(self.oom_kills),
                census: Some(census.clone()),
            },
            dispatcher: Arc::new(dispatcher),
            host,
            settings: self.config.alerts.clone(),
            health: Arc::clone(self.health),
            stop: Arc::clone(self.stop),
        })?;
        let sentinel = Sentinel::new(Part::Alerts, Arc::clone(self.health));
        let thread = spawn("alerts", move || {
            let _sentinel = sentinel;
            alerting.run();
        })?;
        Ok((thread, handle))
    }

    /// Has host, processes and services read.
    pub(super) fn start_readings(&self, board: &Arc<Board>) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        let reader = Reader {
            board: Arc::clone(board),
            engine: self.engine.clone(),
            health: Arc::clone(self.health),
            stop: Arc::clone(self.stop),
            gpu: self.config.gpu.clone(),
        };
        reader.start(Path::new("/")).map_err(start_error)
    }

    /// Has the heaps of Python processes counted when that is asked for.
    pub(super) fn start_census(&self) -> Result<(JoinHandle<()>, CensusHandle), DaemonError> {
        census::start(ProcFs::new(PROC_ROOT), Arc::clone(self.health), Arc::clone(self.stop)).map_err(start_error)
    }

    /// Loads sampling, takes in what runs already, and starts the clocks.
    fn sample(&self) -> Result<(Sampler, Processes<KernelTables>), Failure> {
        let options = SamplerOptions {
            sample_hz: self.config.sampling.hz.get(),
            walker_loop: match self.config.sampling.walker_loop {
                profiler_config::WalkerLoop::Auto => None,
                profiler_config::WalkerLoop::BpfLoop => Some(WalkerLoop::BpfLoop),
                profiler_config::WalkerLoop::ForEachMapElem => Some(WalkerLoop::ForEachMapElem),
            },
            max_row_bytes: self.config.walker.max_row_bytes,
            max_kernel_bytes: self.config.budget.max_kernel_bytes,
        };
        let (mut sampler, tables) = Sampler::load(options)?;
        let mut processes = self.processes(tables)?;
        // After the rings of lifecycle records are open: what starts from now on is heard of.
        self.health.report(Part::Lifecycle, PartState::Active);
        if let Err(error) = processes.scan(Now::read()) {
            self.health.report(
                Part::Discovery,
                PartState::Failed {
                    reason: error.to_string(),
                    remedy: "Let the daemon read /proc.".to_owned(),
                },
            );
        } else if self.config.targets.discovers() {
            self.health.report(Part::Discovery, PartState::Active);
        } else {
            let reason = reload::NOTHING_DISCOVERED.to_owned();
            self.health.report(Part::Discovery, PartState::Disabled { reason });
        }
        sampler.start()?;
        if !sampler.missing_offsets().is_empty() {
            tracing::warn!(members = %sampler.missing_offsets().join(", "), "this kernel does not describe these members: stacks through uprobes may end early");
        }
        tracing::info!(
            hz = sampler.sample_hz(),
            walker_loop = sampler.walker_loop().name(),
            "sampling"
        );
        self.health.report(Part::Sampling, PartState::Active);
        Ok((sampler, processes))
    }

    fn processes<T: WalkerTables>(&self, tables: T) -> Result<Processes<T>, DaemonError> {
        let waker = self.waker.clone();
        let options = processes::Options {
            proc_root: PROC_ROOT.into(),
            targets: self.config.targets.clone(),
            own_pid: Pid(std::process::id()),
            clock: Clock::read(),
            state_dir: self.config.state_dir.clone(),
            max_cached_row_bytes: self.config.walker.max_cached_row_bytes,
            health: Arc::clone(self.health),
            wake: Some(Box::new(move || waker.wake())),
        };
        Ok(Processes::new(tables, options)?)
    }

    fn start_sampling(
        &self,
        sampler: Sampler,
        processes: Processes<KernelTables>,
        commands: tokio::sync::mpsc::Receiver<command::Command>,
    ) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        let (naming, windows) = sync_channel(NAMING_QUEUE);
        let period = sampler.period();
        let keeper = Keeper {
            settings: self.config.into(),
            costs: sampler.costs()?,
            engine: self.engine.clone(),
            health: Arc::clone(self.health),
            stop: Arc::clone(self.stop),
        };
        let keeper = spawn("budget", move || keeper.run(Path::new(PROC_ROOT)))?;
        let codes = PythonCodes::start(ProcFs::new(PROC_ROOT)).map_err(start_error)?;
        let now = Moment::now();
        let fault_stacks = Aggregator::new(Duration::ZERO, WindowLimits::of_faults(), now, codes.beside());
        let mapped_stacks = Aggregator::new(Duration::ZERO, WindowLimits::of_faults(), now, codes.beside());
        let (memory_keeper, memory) = MemoryKeeper::new(MemoryParts {
            proc: ProcFs::new(PROC_ROOT),
            retention: self.config.store.retention,
            salt: sampler.fault_salt(),
            stop: Arc::clone(self.stop),
        });
        let sentinel = Sentinel::new(Part::MemoryProfile, Arc::clone(self.health));
        let memory_keeper = spawn("memory", move || {
            let _sentinel = sentinel;
            memory_keeper.run();
        })?;
        let parts = EngineParts {
            window: Aggregator::new(period, WindowLimits::default(), now, codes),
            faults: FaultAggregator::new(fault_stacks),
            mapped: MappedAggregator::new(mapped_stacks),
            oom_kills: Arc::clone(self.oom_kills),
            memory: memory.clone(),
            health: Arc::clone(self.health),
            window_length: self.config.store.window,
            sampler,
            processes,
            commands,
            waker: self.waker.clone(),
            stop: Arc::clone(self.stop),
        };
        let engine = Engine::new(parts, naming);
        let namer = Namer {
            settings: self.config.symbols.clone(),
            health: Arc::clone(self.health),
            store: Arc::clone(self.store),
            memory: memory.clone(),
            mapped: Arc::clone(self.mapped),
            stop: Arc::clone(self.stop),
        };
        let is_first = self.memory.set(memory).is_ok();
        debug_assert!(is_first, "sampling starts once");
        let manager = self.manager;
        let interval = manager.watchdog_interval();
        let health = Arc::clone(self.health);
        let mut last_sign = Instant::now();
        let sentinel = Sentinel::new(Part::Sampling, Arc::clone(self.health));
        let sampling = spawn("sampling", move || {
            let _sentinel = sentinel;
            engine.run(|| {
                health.note_turn();
                if interval.is_some_and(|interval| last_sign.elapsed() >= interval / 2) {
                    last_sign = Instant::now();
                    manager.alive();
                }
            });
        })?;
        let sentinel = Sentinel::new(Part::Symbols, Arc::clone(self.health));
        let symbols = spawn("symbols", move || {
            let _sentinel = sentinel;
            namer.run(Path::new(PROC_ROOT), &windows);
        })?;
        Ok(vec![sampling, symbols, keeper, memory_keeper])
    }

    fn start_unsampled(
        &self,
        error: &LoadError,
        commands: tokio::sync::mpsc::Receiver<command::Command>,
    ) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        let (reason, remedy) = (error.to_string(), error.remedy());
        tracing::error!(%reason, %remedy, "nothing can be sampled on this host");
        let idle = || PartState::Unsupported {
            reason: "nothing is sampled".to_owned(),
            remedy: String::new(),
        };
        self.health.report(
            Part::Sampling,
            PartState::Unsupported {
                reason: reason.clone(),
                remedy,
            },
        );
        for part in [Part::Lifecycle, Part::Discovery, Part::Symbols, Part::KernelSymbols] {
            self.health.report(part, idle());
        }
        let processes = self.processes(NoWalker)?;
        let stop = Arc::clone(self.stop);
        let thread = spawn("unsampled", move || {
            unsampled::answer(processes, &reason, commands, &stop)
        })?;
        // Without it the service manager would take a host that cannot sample for a daemon that hangs.
        let manager = self.manager;
        let stop = Arc::clone(self.stop);
        let signs = spawn("watchdog", move || {
            let Some(interval) = manager.watchdog_interval() else {
                return;
            };
            while !stop.load(Ordering::Acquire) {
                manager.alive();
                thread::sleep(interval.min(Duration::from_secs(1)));
            }
        })?;
        Ok(vec![thread, signs])
    }
}

/// Why sampling did not start.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// This host cannot do it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The daemon cannot work at all.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

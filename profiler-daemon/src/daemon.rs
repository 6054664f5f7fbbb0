//! The only wiring: builds the stages, joins them, starts and stops them.
//!
//! Three threads carry samples: the sampling loop, the builder of unwind tables behind it, and the one that names
//! windows. gRPC has a runtime of its own. A stage that cannot work is a state in [`Health`]; the daemon ends with an error only if
//! nobody could ask it anything.

mod threads;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use profiler_config::Config;
use profiler_store::{Store, state::Outbox};
use tokio::signal::unix::Signal;

use crate::{
    alerting::{self, Alerting, AlertingHandle, AlertingParts, Sources},
    api::{self, SharedStore, ShownConfiguration, access::Access},
    budget::{self, Keeper},
    command::{self, EngineHandle},
    engine::{Engine, EngineParts, NAMING_QUEUE},
    health::{Health, Part, PartState, Sentinel},
    kernel::{self, KernelTables, LoadError, Sampler, SamplerOptions, WalkerLoop, records::Pid},
    naming::Namer,
    notify::ServiceManager,
    processes::{self, Clock, Now, Processes, scan::ProcFs, walker_tables::WalkerTables},
    readings::{self, Board, Reader},
    reload::{self, Reloader, Source},
    sinks::{self, Dispatcher},
    stacks::{
        aggregate::{Aggregator, Moment, WindowLimits},
        codes::PythonCodes,
    },
    unsampled::{self, NoWalker},
    waker::Waker,
};

use self::threads::{end, spawn, start_error};

const PROC_ROOT: &str = "/proc";

/// Why the daemon cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket cannot be had.
    #[error(transparent)]
    Bind(#[from] api::BindError),
    /// The API ended.
    #[error("the API ended")]
    Serve {
        /// Why.
        #[from]
        source: api::ServeError,
    },
    /// A thread or descriptor that every stage needs could not be made.
    #[error("{what}: {source}")]
    Start {
        /// What could not be made.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The cost of the programs cannot be read.
    #[error("the cost of the programs in the kernel cannot be read: {0}")]
    Costs(#[from] std::io::Error),
    /// Limits cannot be held against readings.
    #[error(transparent)]
    Alerting(#[from] alerting::StartError),
    /// Nobody can be told of alerts.
    #[error(transparent)]
    Sinks(#[from] sinks::StartError),
    /// The owner of processes could not start.
    #[error(transparent)]
    Processes(#[from] processes::StartError),
}

/// The configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Configured {
    /// What is meant.
    pub config: Config,
    /// The same as TOML.
    pub toml: String,
    /// The files it was read from.
    pub files: Vec<PathBuf>,
}

/// Runs until `shutdown` is done. Reads the configuration again at each signal of `hangups`.
pub async fn run(
    configured: Configured,
    source: Source,
    mut hangups: Signal,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), DaemonError> {
    let Configured { config, toml, files } = configured;
    budget::raise_descriptor_limit();
    let manager = ServiceManager::from_environment();
    let health = Arc::new(Health::new());
    let (access, missing_groups) = Access::resolve(
        Path::new("/"),
        rustix::process::geteuid().as_raw(),
        &config.api.read_group,
        &config.api.act_group,
    );
    if !missing_groups.is_empty() {
        tracing::warn!(groups = %missing_groups.join(", "), "groups do not exist: only root and the daemon's own user have their roles");
    }
    // First of all, so that a second daemon on the same socket does no work that it must undo.
    let socket = match api::passed()? {
        Some(socket) => socket,
        None => api::bind(&config.api.socket, access.socket_gid())?,
    };
    health.report(Part::Configuration, PartState::Active);
    let store: SharedStore = Arc::new(Mutex::new(Store::new(store_limits(&config.store))));
    health.report(Part::Store, PartState::Active);
    let waker = Waker::new().map_err(|source| DaemonError::Start {
        what: "a descriptor to wake the sampling loop",
        source,
    })?;
    let (engine, commands) = command::channel();
    let engine = engine.waking(waker.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let stages = Stages {
        config: &config,
        health: &health,
        store: &store,
        waker: &waker,
        engine: &engine,
        stop: &stop,
        manager,
    };
    let readings = Arc::new(Board::new(readings::series_limits(&config.store)));
    // Before the others, so that it ends first: some wait until nobody can ask anything any more.
    let mut threads = stages.start_readings(&readings)?;
    let sources = Sources {
        store: Arc::clone(&store),
        board: Arc::clone(&readings),
        engine: engine.clone(),
    };
    let (alerting, alerts) = alerting(&config, sources, &health, &stop)?;
    let sentinel = Sentinel::new(Part::Alerts, Arc::clone(&health));
    threads.push(spawn("alerts", move || {
        let _sentinel = sentinel;
        alerting.run();
    })?);
    threads.extend(stages.start(commands)?);
    let shown = Arc::new(Mutex::new(ShownConfiguration { toml, files }));
    let identity = api::Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel::kernel_release(),
        started: SystemTime::now(),
        configuration: Arc::clone(&shown),
        proc_root: PROC_ROOT.into(),
    };
    tracing::info!(socket = %socket.path().display(), "serving");
    health.report(Part::Api, PartState::Active);
    manager.ready();
    let mut reloader = Reloader {
        config,
        source,
        engine: engine.clone(),
        store: Arc::clone(&store),
        readings: Arc::clone(&readings),
        alerting: alerts.clone(),
        shown,
        health: Arc::clone(&health),
        manager,
    };
    let reports = manager.report(health.subscribe());
    let context = Arc::new(api::Context::new(
        identity,
        engine.clone(),
        store,
        readings,
        alerts,
        Arc::clone(&health),
    ));
    let served = tokio::select! {
        served = api::serve(socket, context, access, shutdown) => served,
        never = async {
            while hangups.recv().await.is_some() {
                reloader.reload().await;
            }
            std::future::pending().await
        } => match never {},
        never = reports => match never {},
    };
    // Its handle of the sampling loop, so that only ours is left to be dropped.
    drop(reloader);
    manager.stopping();
    tracing::info!("stopping");
    stop.store(true, Ordering::Release);
    waker.wake();
    end(threads, engine);
    Ok(served?)
}

/// What holds limits against readings, and tells of it.
fn alerting(
    config: &Config,
    sources: Sources,
    health: &Arc<Health>,
    stop: &Arc<AtomicBool>,
) -> Result<(Alerting, AlertingHandle), DaemonError> {
    let outbox = Outbox::open(&config.state_dir).map_err(alerting::StartError::from)?;
    let host = kernel::host_name();
    let settings = sinks::Settings::new(host.clone(), config.alerts.external_url.clone());
    let dispatcher = Dispatcher::start(&config.sinks, outbox, settings)?;
    Ok(Alerting::new(AlertingParts {
        limits: config.limits_in_force().cloned().collect(),
        state_dir: config.state_dir.clone(),
        sources,
        dispatcher: Arc::new(dispatcher),
        host,
        settings: config.alerts.clone(),
        health: Arc::clone(health),
        stop: Arc::clone(stop),
    })?)
}

/// How much the store keeps.
pub(crate) fn store_limits(config: &profiler_config::Store) -> profiler_store::Limits {
    profiler_store::Limits {
        retention: config.retention,
        max_bytes: usize::try_from(config.max_bytes).unwrap_or(usize::MAX),
    }
}

/// What the stages are built from.
struct Stages<'a> {
    config: &'a Config,
    health: &'a Arc<Health>,
    store: &'a SharedStore,
    waker: &'a Waker,
    engine: &'a EngineHandle,
    stop: &'a Arc<AtomicBool>,
    manager: ServiceManager,
}

impl Stages<'_> {
    /// Starts the stages that this host can run.
    fn start(
        &self,
        commands: tokio::sync::mpsc::Receiver<command::Command>,
    ) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        match self.sample() {
            Ok((sampler, processes)) => self.start_sampling(sampler, processes, commands),
            Err(Failure::Load(error)) => self.start_unsampled(&error, commands),
            Err(Failure::Daemon(error)) => Err(error),
        }
    }

    /// Has host, processes and services read.
    fn start_readings(&self, board: &Arc<Board>) -> Result<Vec<JoinHandle<()>>, DaemonError> {
        let reader = Reader {
            board: Arc::clone(board),
            engine: self.engine.clone(),
            health: Arc::clone(self.health),
            stop: Arc::clone(self.stop),
        };
        reader.start(Path::new("/")).map_err(start_error)
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
        let parts = EngineParts {
            window: Aggregator::new(period, WindowLimits::default(), Moment::now(), codes),
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
        };
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
        Ok(vec![sampling, symbols, keeper])
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

//! The only wiring: builds the stages, joins them, starts and stops them.
//!
//! Three threads carry samples: the sampling loop, the builder of unwind tables behind it, and the one that names
//! windows. gRPC has a runtime of its own. A stage that cannot work is a state in [`Health`]; the daemon ends with an error only if
//! nobody could ask it anything.

mod stages;
mod threads;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use profiler_config::Config;
use profiler_store::Store;
use tokio::signal::unix::Signal;

use crate::{
    alerting,
    api::{self, SharedStore, ShownConfiguration, access::Access},
    budget, command,
    health::{Health, Part, PartState},
    kernel,
    memory::{OomKills, SharedMemory},
    notify::ServiceManager,
    processes,
    readings::{self, Board},
    reload::{Reloader, Source},
    sinks,
    waker::Waker,
};

use self::{stages::Stages, threads::end};

const PROC_ROOT: &str = "/proc";
/// How long exact stacks of calls for memory are kept, and in how much memory: who asked for them takes them at once.
const MAPPED_LIMITS: profiler_store::Limits = profiler_store::Limits {
    retention: Duration::from_secs(15 * 60),
    max_bytes: 8 << 20,
};

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
    let access = access(&config.api);
    // First of all, so that a second daemon on the same socket does no work that it must undo.
    let socket = socket(&config.api, &access)?;
    health.report(Part::Configuration, PartState::Active);
    let store: SharedStore = Arc::new(Mutex::new(Store::new(store_limits(&config.store))));
    health.report(Part::Store, PartState::Active);
    let waker = waker()?;
    let (engine, commands) = command::channel();
    let engine = engine.waking(waker.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let oom_kills = Arc::new(OomKills::default());
    let (memory, mapped) = (SharedMemory::default(), Arc::new(Mutex::new(Store::new(MAPPED_LIMITS))));
    let stages = Stages {
        config: &config,
        health: &health,
        store: &store,
        waker: &waker,
        engine: &engine,
        oom_kills: &oom_kills,
        memory: &memory,
        mapped: &mapped,
        stop: &stop,
        manager,
    };
    let readings = Arc::new(Board::new(readings::series_limits(&config.store)));
    // Before the others, so that it ends first: some wait until nobody can ask anything any more.
    let mut threads = stages.start_readings(&readings)?;
    let (taking, census) = stages.start_census()?;
    threads.push(taking);
    let (alerting, alerts) = stages.start_alerting(&readings, &census)?;
    threads.push(alerting);
    threads.extend(stages.start(commands)?);
    let shown = Arc::new(Mutex::new(ShownConfiguration { toml, files }));
    let identity = identity(Arc::clone(&shown));
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
    let reports = manager.report(health.subscribe(), health.budget.subscribe());
    let context = api::Context::new(
        identity,
        engine.clone(),
        store,
        readings,
        alerts,
        census,
        Arc::clone(&health),
    );
    let context = Arc::new(context.with_memory(Arc::clone(&memory), mapped));
    let served = tokio::select! {
        served = api::serve(socket, reloader.config.tcp.clone(), context, access, shutdown) => served,
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

/// The socket that the service manager passed, or one of our own.
fn socket(config: &profiler_config::Api, access: &Access) -> Result<api::BoundSocket, DaemonError> {
    Ok(match api::passed()? {
        Some(socket) => socket,
        None => api::bind(&config.socket, access.socket_gid())?,
    })
}

/// What other threads wake the sampling loop with.
fn waker() -> Result<Waker, DaemonError> {
    Waker::new().map_err(|source| DaemonError::Start {
        what: "a descriptor to wake the sampling loop",
        source,
    })
}

/// What is told of this daemon.
fn identity(configuration: Arc<Mutex<ShownConfiguration>>) -> api::Identity {
    api::Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel::kernel_release(),
        started: SystemTime::now(),
        configuration,
        proc_root: PROC_ROOT.into(),
    }
}

/// Who may do what. Groups that do not exist are told.
fn access(config: &profiler_config::Api) -> Access {
    let (access, missing_groups) = Access::resolve(
        Path::new("/"),
        rustix::process::geteuid().as_raw(),
        &config.read_group,
        &config.act_group,
    );
    if !missing_groups.is_empty() {
        tracing::warn!(groups = %missing_groups.join(", "), "groups do not exist: only root and the daemon's own user have their roles");
    }
    access
}

/// How much the store keeps.
pub(crate) fn store_limits(config: &profiler_config::Store) -> profiler_store::Limits {
    profiler_store::Limits {
        retention: config.retention,
        max_bytes: usize::try_from(config.max_bytes).unwrap_or(usize::MAX),
    }
}

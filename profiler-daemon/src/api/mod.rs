//! gRPC for the command line and dashboards.
//!
//! In: requests over a unix socket, and over TCP if so configured, each from a peer whose roles are known. Out: answers from the sampling loop, the store
//! and the state of the parts. Nothing here touches processes or the kernel's sampling: what the API wants done it asks
//! of the loop by a command. Only this module names tonic.

pub mod access;
mod answers;
mod convert;
mod flush;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod grpc;
pub mod http;
mod peer;
mod server;
mod socket;
mod status;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use profiler_store::{Limits, Store};
use tokio::sync::Semaphore;

use crate::{
    alerting::AlertingHandle, census::CensusHandle, command::EngineHandle, evidence::Evidence, health::Health,
    memory::SharedMemory, readings::Board,
};

pub use server::{ServeError, serve};
pub use socket::{BindError, BoundSocket, bind, passed};

/// Watches that streams may hold at one time. Each keeps a place in the queue of commands, so that its end is
/// never refused.
pub const MAX_STREAM_WATCHES: usize = 64;
/// Queries that are merged at one time; each takes a thread and memory of the order of the store's.
const MAX_QUERIES: usize = 2;
/// Streams of readings at one time; each costs a snapshot a second.
const MAX_READING_STREAMS: usize = 16;
/// Streams of alerts at one time.
const MAX_ALERT_STREAMS: usize = 16;

/// Of a store that keeps nothing.
const NOTHING: Limits = Limits {
    retention: Duration::ZERO,
    max_bytes: 0,
};

/// The store as the API and the stage that fills it share it. Held only while windows are picked or put in.
pub type SharedStore = Arc<Mutex<Store>>;

/// The configuration in force, as the API shows it. A reload replaces it.
pub type SharedConfiguration = Arc<Mutex<ShownConfiguration>>;

/// A configuration as it is shown.
#[derive(Clone, Debug, Default)]
pub struct ShownConfiguration {
    /// The whole of it as TOML.
    pub toml: String,
    /// The files it was read from, the least important first.
    pub files: Vec<PathBuf>,
}

/// What the API tells of the daemon besides what it measures.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Version of the daemon.
    pub version: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// When the daemon started.
    pub started: SystemTime,
    /// The configuration in force.
    pub configuration: SharedConfiguration,
    /// Where procfs is mounted.
    pub proc_root: PathBuf,
}

/// What all services share.
#[derive(Debug)]
pub struct Context {
    identity: Identity,
    engine: EngineHandle,
    store: SharedStore,
    health: Arc<Health>,
    readings: Arc<Board>,
    alerting: AlertingHandle,
    census: CensusHandle,
    memory: SharedMemory,
    /// Calls for memory that were asked for.
    mapped: SharedStore,
    flush: flush::Flush,
    queries: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    reading_streams: Arc<Semaphore>,
    alert_streams: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    next_watch: AtomicU64,
    refused_connections: AtomicU64,
    failed_handshakes: AtomicU64,
    refused_watches: AtomicU64,
}

impl Context {
    /// A context in which nothing was asked yet.
    pub fn new(
        identity: Identity,
        engine: EngineHandle,
        store: SharedStore,
        readings: Arc<Board>,
        alerting: AlertingHandle,
        census: CensusHandle,
        health: Arc<Health>,
    ) -> Self {
        Self {
            identity,
            engine,
            store,
            health,
            readings,
            alerting,
            census,
            memory: SharedMemory::default(),
            mapped: Arc::new(Mutex::new(Store::new(NOTHING))),
            flush: flush::Flush::default(),
            queries: Arc::new(Semaphore::new(MAX_QUERIES)),
            watches: Arc::new(Semaphore::new(MAX_STREAM_WATCHES)),
            reading_streams: Arc::new(Semaphore::new(MAX_READING_STREAMS)),
            alert_streams: Arc::new(Semaphore::new(MAX_ALERT_STREAMS)),
            connections: Arc::new(Semaphore::new(peer::MAX_CONNECTIONS)),
            next_watch: AtomicU64::new(1),
            refused_connections: AtomicU64::new(0),
            failed_handshakes: AtomicU64::new(0),
            refused_watches: AtomicU64::new(0),
        }
    }

    /// The same, with what is known of memory, and of calls for it.
    #[must_use]
    pub fn with_memory(self, memory: SharedMemory, mapped: SharedStore) -> Self {
        Self { memory, mapped, ..self }
    }

    /// What is kept of calls for memory.
    fn mapped(&self) -> MutexGuard<'_, Store> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store. A thread that panicked while it held the lock left whole windows behind.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evidence as the bytes that are kept: a message of the contract, so that it is sent as it was kept.
pub fn encode_evidence(evidence: &Evidence) -> Vec<u8> {
    convert::evidence::encode(evidence)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

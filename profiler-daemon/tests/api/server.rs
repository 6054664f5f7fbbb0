//! A server on a socket in a directory of its own, and clients of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use profiler_alerts::Limit;
use profiler_config::Config;
use profiler_config::Tcp;
use profiler_daemon::{
    alerting::{Alerting, AlertingParts, Sources},
    api::{self, Context, Identity, ServeError, SharedStore, ShownConfiguration, access::Access},
    census,
    command::{self, EngineHandle},
    health::Health,
    processes::scan::ProcFs,
    readings::Board,
    sinks::{self, Dispatcher},
};
use profiler_store::{Limits, SeriesLimits, Store, state::Outbox};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::double::{self, Shared};

/// What the server says that the configuration is.
pub(crate) const CONFIGURATION: &str = "state_dir = \"/x\"\n";

/// A server that ends with its test.
pub(crate) struct Server {
    pub(crate) directory: TempDir,
    pub(crate) script: Shared,
    pub(crate) store: SharedStore,
    pub(crate) readings: Arc<Board>,
    pub(crate) health: Arc<Health>,
    pub(crate) context: Arc<Context>,
    pub(crate) engine: EngineHandle,
    /// The task of the scripted loop.
    pub(crate) engine_task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// A server for root and the user of the test.
    pub(crate) fn start() -> Self {
        Self::with_access(Access::only_root_and(rustix::process::geteuid().as_raw()))
    }

    pub(crate) fn with_access(access: Access) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = api::bind(&directory.path().join("s.sock"), access.socket_gid()).expect("a socket");
        let (engine, commands) = command::channel();
        let script = Shared::default();
        let engine_task = tokio::spawn(double::run(commands, script.clone()));
        let limits = Limits {
            retention: Duration::from_secs(3600),
            max_bytes: 1 << 24,
        };
        let store = Arc::new(Mutex::new(Store::new(limits)));
        let readings = Arc::new(Board::new(SeriesLimits {
            retention: Duration::from_secs(3600),
            max_bytes: 1 << 20,
        }));
        let health = Arc::new(Health::new());
        let identity = Identity {
            version: "1.2.3".to_owned(),
            kernel_release: "6.1.0-test".to_owned(),
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            configuration: Arc::new(Mutex::new(ShownConfiguration {
                toml: CONFIGURATION.to_owned(),
                files: vec![PathBuf::from("/etc/profiler/config.toml")],
            })),
            proc_root: PathBuf::from("/proc"),
        };
        let outbox = Outbox::open(directory.path()).expect("an outbox");
        let settings = sinks::Settings::new("host".to_owned(), String::new());
        let dispatcher = Dispatcher::start(&Config::default().sinks, outbox, settings).expect("a thread");
        let (alerting, alerts) = Alerting::new(AlertingParts {
            limits: vec![host_cpu()],
            state_dir: directory.path().to_owned(),
            sources: Sources {
                store: Arc::clone(&store),
                board: Arc::clone(&readings),
                engine: engine.clone(),
                memory: Arc::default(),
                oom_kills: Arc::default(),
                census: None,
            },
            dispatcher: Arc::new(dispatcher),
            host: "host".to_owned(),
            settings: Config::default().alerts,
            health: Arc::new(Health::new()),
            stop: Arc::default(),
        })
        .expect("alerts are kept somewhere");
        // It ends with the last handle.
        std::thread::spawn(|| alerting.run());
        let (_taking, census) =
            census::start(ProcFs::new("/proc"), Arc::new(Health::new()), Arc::default()).expect("a thread can start");
        let context = Arc::new(Context::new(
            identity,
            engine.clone(),
            Arc::clone(&store),
            Arc::clone(&readings),
            alerts,
            census,
            Arc::clone(&health),
        ));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(api::serve(
            socket,
            Tcp::default(),
            Arc::clone(&context),
            access,
            async {
                // A test that ends drops the sender.
                drop(stopped.await);
            },
        ));
        Self {
            directory,
            script,
            store,
            readings,
            health,
            context,
            engine,
            engine_task,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("s.sock")
    }

    pub(crate) async fn client(&self) -> Channel {
        connect(&self.path()).await.expect("a connection")
    }

    /// Tells the server to end, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<(), ServeError> {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.expect("the server ends").expect("the server does not panic")
    }
}

/// The shipped limit on the host's CPU, that fires and ends at once.
fn host_cpu() -> Arc<Limit> {
    let config = Config::default();
    let shipped = config.limits_in_force().find(|limit| limit.name == "host_cpu");
    Arc::new(Limit {
        hold_for: Duration::ZERO,
        keep_firing_for: Duration::ZERO,
        ..Limit::clone(shipped.expect("a shipped limit"))
    })
}

/// A connection to the server on a socket.
pub(crate) async fn connect(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://profiler")
        .connect_with_connector(connector)
        .await
}

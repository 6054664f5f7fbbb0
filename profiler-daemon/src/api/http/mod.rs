//! gRPC and Prometheus's text on one TCP port, for callers that show a token, a certificate, or both.
//!
//! In: connections from anywhere that the configured address can be reached from. Out: what the unix socket serves, to the
//! roles that the configuration gives them, and `/metrics`. A caller without the token learns nothing but that it lacks it, one
//! without the certificate not even that, and either keeps its connection for seconds.

mod exposition;
mod keys;
mod tls;
pub mod token;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    middleware::{self, Next},
    routing::get,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

pub use self::tls::TlsError;
use self::{
    exposition::Own,
    keys::{Keyring, Stamps},
};
use super::{
    Context,
    access::Roles,
    answers, count,
    peer::{Peer, PeerStream},
    server::{self, ServeError},
};
use crate::{
    alerting,
    command::Command,
    health::{OwnCost, Part, PartState},
    readings::Board,
    secrets::FileError,
};

/// Connections open at one time. They are not those of the unix socket, which strangers must not take.
const MAX_CONNECTIONS: usize = 32;
/// How long to leave it when no connection can be accepted, as when all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a caller may take to shake hands, and to show its certificate if it has to.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for the counters of the sampling loop and of the limits, without which the rest is told.
const LOOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long what was sent may stay unread before the connection is cut: a caller whose host went away, or that asks and
/// does not read, must not keep its place.
const READ_WITHIN_MS: u32 = answers::READ_WITHIN.as_millis() as u32;
/// Scrapes answered at one time; each costs a copy of the newest readings.
const MAX_SCRAPES: usize = 2;
/// Where Prometheus reads.
const METRICS_PATH: &str = "/metrics";

/// Why there is no TCP listener.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The token cannot be had.
    #[error(transparent)]
    Token(#[from] FileError),
    /// There is no TLS, and there should be.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody would have to show anything.
    #[error("neither a token nor certificates of callers are asked for")]
    Open,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A connection, in the clear or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Caller = PeerStream<Box<dyn Wire>>;

/// A listener and whom it lets in.
pub struct TcpDoor {
    listener: TcpListener,
    keyring: Arc<Keyring>,
    stamps: Stamps,
    roles: Roles,
}

impl std::fmt::Debug for TcpDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpDoor")
            .field("listener", &self.listener)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl TcpDoor {
    /// Listens as the configuration says; none if it says no address.
    pub async fn open(config: &profiler_config::Tcp) -> Result<Option<Self>, TcpError> {
        let Some(address) = config.listen else { return Ok(None) };
        let (keyring, stamps) = Keyring::open(config)?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| TcpError::Listen { address, source })?;
        let roles = if config.allow_profile {
            Roles::READ_AND_PROFILE
        } else {
            Roles::READ
        };
        Ok(Some(Self {
            listener,
            keyring: Arc::new(keyring),
            stamps,
            roles,
        }))
    }

    /// The address that it listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop.
    pub async fn serve(self, context: Arc<Context>, mut stopping: watch::Receiver<bool>) -> Result<(), ServeError> {
        let (routes, reporter) = server::routes(&context, &stopping)?;
        let scrapes = Arc::new(Scrapes {
            context: Arc::clone(&context),
            places: Semaphore::new(MAX_SCRAPES),
        });
        let guard = Guard {
            keyring: Arc::clone(&self.keyring),
            roles: self.roles,
        };
        let router: Router = routes
            .prepare()
            .into_axum_router()
            .route(METRICS_PATH, get(scrape).with_state(scrapes))
            .fallback(unknown)
            .layer(middleware::from_fn_with_state(guard, admit));
        let (admitted, connections) = mpsc::channel(1);
        let shutdown = async move { server::stopped(&mut stopping).await };
        let serve = server::serve_routes(router.into(), connections, true, shutdown);
        let side_tasks = async {
            let accept = accept(self.listener, &self.keyring, &context, admitted);
            let keep = Arc::clone(&self.keyring).keep(self.stamps, &context.health);
            tokio::join!(accept, keep, server::report_health(&reporter, &context.health)).2
        };
        tokio::select! {
            ended = serve => ended,
            never = side_tasks => match never {},
        }
    }
}

/// Accepts connections until nobody takes them any more.
async fn accept(
    listener: TcpListener,
    keyring: &Keyring,
    context: &Arc<Context>,
    admitted: mpsc::Sender<io::Result<Caller>>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut handshakes = JoinSet::new();
    loop {
        // Others wait in the kernel's queue, which is bounded too.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, READ_WITHIN_MS) {
                    tracing::debug!(%error, "a TCP connection that ended already");
                    continue;
                }
                while handshakes.try_join_next().is_some() {}
                if let Some(tls) = keyring.current().tls {
                    handshakes.spawn(secure(tls, stream, place, Arc::clone(context), admitted.clone()));
                } else if admitted
                    .send(Ok(Caller::stranger(Box::new(stream), place)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a TCP connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Shakes hands with a caller, who keeps no other waiting by that, and passes it on.
async fn secure(
    tls: TlsAcceptor,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    context: Arc<Context>,
    admitted: mpsc::Sender<io::Result<Caller>>,
) {
    let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await;
    match shaken.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
        // Nobody takes it when the daemon ends.
        Ok(stream) => drop(admitted.send(Ok(Caller::stranger(Box::new(stream), place))).await),
        Err(error) => {
            count(&context.failed_handshakes);
            tracing::debug!(%error, "a caller of the TCP port could not be let in");
        }
    }
}

/// Whom requests come in by.
#[derive(Clone)]
struct Guard {
    keyring: Arc<Keyring>,
    roles: Roles,
}

/// Lets a request in, if it shows the token where there is one; whatever it asks for, nothing is told otherwise.
async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Response<Body> {
    if let Some(token) = guard.keyring.current().token {
        let shown = request.headers().get(header::AUTHORIZATION);
        if !shown.is_some_and(|shown| token.is_shown_by(shown.as_bytes())) {
            return refusal(request.headers());
        }
    }
    let stranger = request.extensions().get::<Peer>().cloned();
    let peer = stranger.unwrap_or_else(Peer::stranger).let_in(guard.roles);
    request.extensions_mut().insert(peer);
    next.run(request).await
}

fn refusal(asked: &HeaderMap) -> Response<Body> {
    const PROBLEM: &str = "the token is missing or wrong";
    if answers::is_grpc(asked) {
        return Status::unauthenticated(PROBLEM).into_http();
    }
    let mut response = answer(StatusCode::UNAUTHORIZED, format!("{PROBLEM}\n"));
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What is neither a service of ours nor a page.
async fn unknown(request: Request) -> Response<Body> {
    if answers::is_grpc(request.headers()) {
        return Status::unimplemented("there is no such service").into_http();
    }
    answer(StatusCode::NOT_FOUND, format!("there is only {METRICS_PATH}\n"))
}

/// What scrapes are answered from.
#[derive(Debug)]
struct Scrapes {
    context: Arc<Context>,
    places: Semaphore,
}

async fn scrape(State(scrapes): State<Arc<Scrapes>>) -> Response<Body> {
    // Nobody closes it.
    let _place = scrapes.places.acquire().await;
    answer(StatusCode::OK, text(&scrapes.context).await)
}

fn answer(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(exposition::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// All readings and counters, as Prometheus reads them.
async fn text(context: &Context) -> String {
    let engine = context.engine.ask(|reply| Command::Status { reply });
    let limits = context.alerting.ask(|reply| alerting::Command::Limits { reply });
    let (engine, limits) = tokio::join!(
        tokio::time::timeout(LOOP_TIMEOUT, engine),
        tokio::time::timeout(LOOP_TIMEOUT, limits)
    );
    let own = Own {
        version: &context.identity.version,
        engine: engine.ok().and_then(Result::ok),
        limits: limits.ok().and_then(Result::ok),
        cost: OwnCost::read(&context.identity.proc_root).ok(),
        budget: context.health.budget.report(),
        series: context.readings.series().status(),
        tally: context.readings.tally(),
        left_out: context.readings.left_out(),
        failed_handshakes: context.failed_handshakes.load(Ordering::Relaxed),
    };
    let latest = context.readings.series().latest(Board::now().steady, |_| true);
    exposition::text(&latest, &own)
}

/// Serves over TCP as configured, until it is told to stop. What keeps it from that is a state, and keeps nothing else.
pub(super) async fn run(config: profiler_config::Tcp, context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let health = Arc::clone(&context.health);
    let outcome = match TcpDoor::open(&config).await {
        Ok(None) => Ok(()),
        Ok(Some(door)) => {
            let address = door.address().map(|address| address.to_string()).unwrap_or_default();
            tracing::info!(address, "serving over TCP");
            health.report(Part::Tcp, PartState::Active);
            let served = door.serve(context, stopping.clone()).await;
            served.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = outcome {
        let remedy = "Mend the section [tcp] or what it names, and restart the daemon.".to_owned();
        health.report(Part::Tcp, PartState::Failed { reason, remedy });
    }
    server::stopped(&mut stopping).await;
}

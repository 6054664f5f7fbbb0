//! Serves gRPC on the socket until it is told to stop.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use profiler_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        alert_service_server::{self, AlertServiceServer},
        growth_service_server::{self, GrowthServiceServer},
        memory_service_server::{self, MemoryServiceServer},
        metrics_service_server::{self, MetricsServiceServer},
        process_service_server::{self, ProcessServiceServer},
        profile_service_server::{self, ProfileServiceServer},
        status_service_server::{self, StatusServiceServer},
        watch_service_server::{self, WatchServiceServer},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::{Routes, interceptor::InterceptorLayer};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::util::AndThenLayer;

use super::{
    Context,
    access::Access,
    answers::{self, Unread},
    grpc::{
        alerts::Alerts,
        growth::Growth,
        memory::Memory,
        metrics::Metrics,
        processes::Processes,
        profiles::{MAX_RESPONSE_BYTES, Profiles},
        status::Reports,
        watch::Watches,
    },
    http,
    peer::{self, Gate, PeerStream},
    socket::BoundSocket,
};
use crate::health::{Health, Part, PartState};

/// Longest time from a request to the beginning of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests and streams of one connection at one time.
const MAX_STREAMS_PER_CONNECTION: u32 = 32;
/// Largest request.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Largest block of headers.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// How often a silent client is asked whether it is still there, and how long it may take to answer: one that was
/// stopped must not hold its watches for ever.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long requests in progress may take when the daemon ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// Accepted connections that may wait to be served.
const ACCEPT_QUEUE: usize = 8;

/// Why the API does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of our own services cannot be served.
    #[error("reflection cannot be set up: {source}")]
    Reflection {
        /// Why.
        source: tonic_reflection::server::Error,
    },
    /// The listener cannot be used.
    #[error("the socket cannot be served: {source}")]
    Listener {
        /// Why.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the server failed: {source}")]
    Server {
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Serves on the socket until `shutdown` is done, and over TCP if so configured. Removes the socket at the end.
pub async fn serve(
    socket: BoundSocket,
    tcp: profiler_config::Tcp,
    context: Arc<Context>,
    access: Access,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (listener, _place) = socket.into_parts();
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|source| ServeError::Listener { source })?;
    let (stop, mut stopping) = watch::channel(false);
    let (routes, reporter) = routes(&context, &stopping)?;
    let (admitted, connections) = mpsc::channel(ACCEPT_QUEUE);
    let gate = Gate {
        access: Arc::new(access),
        context: Arc::clone(&context),
        users: Arc::default(),
    };
    let tcp = http::run(tcp, Arc::clone(&context), stopping.clone());
    let server = serve_routes(routes, connections, false, async move { stopped(&mut stopping).await });
    let overdue = async {
        shutdown.await;
        stop.send_replace(true);
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    let side_tasks = async {
        let accept = gate.accept(listener, admitted);
        let ((), never) = tokio::join!(accept, report_health(&reporter, &context.health));
        never
    };
    // Only the socket's failure ends the other.
    let tcp = async {
        tcp.await;
        Ok(())
    };
    let served = async { tokio::try_join!(server, tcp) };
    tokio::select! {
        ended = served => ended.map(drop),
        () = overdue => {
            tracing::info!("requests in progress were cut off");
            Ok(())
        }
        never = side_tasks => match never {},
    }
}

/// Serves on connections, within bounds that hold wherever they come from.
pub(super) async fn serve_routes<S>(
    routes: Routes,
    connections: mpsc::Receiver<io::Result<PeerStream<S>>>,
    with_http1: bool,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unread = Arc::new(Unread::default());
    let server = tonic::transport::Server::builder()
        .accept_http1(with_http1)
        .timeout(REQUEST_TIMEOUT)
        .concurrency_limit_per_connection(MAX_STREAMS_PER_CONNECTION as usize)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(InterceptorLayer::new(peer::note_request))
        .layer(AndThenLayer::new(move |response| {
            let held = Arc::clone(&unread).hold(response, answers::READ_WITHIN);
            async { Ok::<_, Infallible>(held.await) }
        }))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), shutdown);
    server.await.map_err(|source| ServeError::Server { source })
}

/// Returns when the daemon is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server, which holds the sender, has ended already.
    drop(stop.wait_for(|stop| *stop).await);
}

/// All services.
pub(super) fn routes(
    context: &Arc<Context>,
    stop: &watch::Receiver<bool>,
) -> Result<(Routes, HealthReporter), ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |source| ServeError::Reflection { source };
    let (reporter, health) = tonic_health::server::health_reporter();
    let context = || Arc::clone(context);
    let profiles = ProfileServiceServer::new(Profiles { context: context() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let processes = ProcessServiceServer::new(Processes { context: context() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let watches = WatchServiceServer::new(Watches {
        context: context(),
        stop: stop.clone(),
    })
    .max_decoding_message_size(MAX_REQUEST_BYTES);
    let metrics = MetricsServiceServer::new(Metrics {
        context: context(),
        stop: stop.clone(),
    })
    .max_decoding_message_size(MAX_REQUEST_BYTES)
    .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let alerts = AlertServiceServer::new(Alerts {
        context: context(),
        stop: stop.clone(),
    })
    .max_decoding_message_size(MAX_REQUEST_BYTES)
    .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let growth = GrowthServiceServer::new(Growth { context: context() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let memory = MemoryServiceServer::new(Memory { context: context() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let reports = StatusServiceServer::new(Reports { context: context() }).max_decoding_message_size(MAX_REQUEST_BYTES);
    let routes = Routes::new(profiles)
        .add_service(processes)
        .add_service(watches)
        .add_service(reports)
        .add_service(metrics)
        .add_service(alerts)
        .add_service(memory)
        .add_service(growth)
        .add_service(health.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(
            reflection()
                .build_v1()
                .map_err(failed)?
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            reflection()
                .build_v1alpha()
                .map_err(failed)?
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        );
    Ok((routes, reporter))
}

/// Tells health checks how the services do, for ever: those that need samples serve while there are any.
pub(super) async fn report_health(reporter: &HealthReporter, health: &Health) -> Infallible {
    let mut parts = health.subscribe();
    for service in [
        alert_service_server::SERVICE_NAME,
        growth_service_server::SERVICE_NAME,
        memory_service_server::SERVICE_NAME,
        metrics_service_server::SERVICE_NAME,
        process_service_server::SERVICE_NAME,
        status_service_server::SERVICE_NAME,
    ] {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    loop {
        let samples = parts.borrow_and_update().contains(&(Part::Sampling, PartState::Active));
        let status = if samples {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in [profile_service_server::SERVICE_NAME, watch_service_server::SERVICE_NAME] {
            reporter.set_service_status(service, status).await;
        }
        if parts.changed().await.is_err() {
            // Nobody reports any more; what was said last stays.
            return std::future::pending().await;
        }
    }
}

//! The connection to the daemon: one method per call, over its socket or its address.

mod alerts;
mod error;
mod growth;
mod memory;
pub(crate) mod remote;

use std::{io, path::Path, sync::Mutex, time::Duration};

use hyper_util::rt::TokioIo;
use profiler_proto::v1::{
    CompareProfilesRequest, Comparison, GetConfigRequest, GetConfigResponse, GetRangeRequest, GetRangeResponse,
    GetSnapshotRequest, GetSnapshotResponse, GetStatusRequest, GetStatusResponse, ListMetricsRequest,
    ListProcessesRequest, MetricDescription, Process, Profile, ProfileSelector, ProfileView, QueryPprofRequest,
    QueryPprofResponse, QueryProfileRequest, ReadingSelector, WatchMappingsRequest, WatchProcessRequest,
    WatchProcessResponse, WatchReadingsRequest, WatchReadingsResponse, metrics_service_client::MetricsServiceClient,
    process_service_client::ProcessServiceClient, profile_service_client::ProfileServiceClient,
    status_service_client::StatusServiceClient, watch_service_client::WatchServiceClient,
};
use tokio::net::UnixStream;
use tonic::{
    Status, Streaming,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

pub(crate) use self::error::{ClientError, refusal};
use self::{
    error::{classify_connect, innermost},
    remote::Credentials,
};
use crate::args::Connection;

/// Largest answer taken from the daemon: a profile of all that it keeps, with room to spare.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// What calls go over.
type Wire = InterceptedService<Channel, Credentials>;

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Wire,
    timeout: Duration,
}

impl Client {
    /// Connects to the daemon's address if one is given, else to its socket. Each call is given up after the time-out.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, ClientError> {
        let timeout = connection.timeout;
        let (channel, credentials) = match &connection.remote.address {
            Some(address) => remote::connect(address, &connection.remote, timeout).await?,
            None => (Self::local(&connection.socket, timeout).await?, Credentials::default()),
        };
        let channel = InterceptedService::new(channel, credentials);
        Ok(Self { channel, timeout })
    }

    async fn local(socket: &Path, timeout: Duration) -> Result<Channel, ClientError> {
        let stream = within(timeout, async {
            UnixStream::connect(socket)
                .await
                .map_err(|error| classify_connect(socket, error))
        })
        .await?;
        let first = Mutex::new(Some(stream));
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let first = first.lock().ok().and_then(|mut first| first.take());
            let path = path.clone();
            async move {
                let stream = match first {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The authority is never resolved: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://profiler.invalid");
        within(timeout, async {
            let connected = endpoint.connect_with_connector(connector).await;
            connected.map_err(|error| ClientError::Lost {
                reason: innermost(&error),
            })
        })
        .await
    }

    /// All watched processes, or one that need not be watched.
    pub(crate) async fn list_processes(&self, pid: Option<u32>) -> Result<Vec<Process>, ClientError> {
        let mut client = ProcessServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let response = self.call(client.list_processes(ListProcessesRequest { pid })).await?;
        Ok(response.processes)
    }

    /// Watches a process as long as the stream is kept.
    pub(crate) async fn watch_process(&self, pid: u32) -> Result<Streaming<WatchProcessResponse>, ClientError> {
        let mut client = WatchServiceClient::new(self.channel.clone());
        self.call(client.watch_process(WatchProcessRequest { pid })).await
    }

    /// The same, and takes its calls for memory.
    pub(crate) async fn watch_mappings(&self, pid: u32) -> Result<Streaming<WatchProcessResponse>, ClientError> {
        let mut client = WatchServiceClient::new(self.channel.clone());
        self.call(client.watch_mappings(WatchMappingsRequest { pid })).await
    }

    /// The merged profile of a selection.
    pub(crate) async fn query_profile(
        &self,
        selector: ProfileSelector,
        view: ProfileView,
    ) -> Result<Profile, ClientError> {
        let mut client = ProfileServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = QueryProfileRequest {
            selector: Some(selector),
            view: Some(view),
        };
        Ok(self
            .call(client.query_profile(request))
            .await?
            .profile
            .unwrap_or_default())
    }

    /// The profile of a selection in the pprof format, with the names of threads.
    pub(crate) async fn query_pprof(
        &self,
        selector: ProfileSelector,
        view: ProfileView,
    ) -> Result<QueryPprofResponse, ClientError> {
        let mut client = ProfileServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        self.call(client.query_pprof(QueryPprofRequest {
            selector: Some(selector),
            view: Some(view),
        }))
        .await
    }

    /// What can be measured.
    pub(crate) async fn list_metrics(&self) -> Result<Vec<MetricDescription>, ClientError> {
        let response = self.call(self.metrics().list_metrics(ListMetricsRequest {})).await?;
        Ok(response.metrics)
    }

    /// The latest readings.
    pub(crate) async fn get_snapshot(&self, selector: ReadingSelector) -> Result<GetSnapshotResponse, ClientError> {
        let selector = Some(selector);
        self.call(self.metrics().get_snapshot(GetSnapshotRequest { selector }))
            .await
    }

    /// Readings over a span.
    pub(crate) async fn get_range(&self, request: GetRangeRequest) -> Result<GetRangeResponse, ClientError> {
        self.call(self.metrics().get_range(request)).await
    }

    /// The latest readings, now and every interval.
    pub(crate) async fn watch_readings(
        &self,
        selector: ReadingSelector,
        interval: Duration,
    ) -> Result<Streaming<WatchReadingsResponse>, ClientError> {
        let request = WatchReadingsRequest {
            selector: Some(selector),
            interval: prost_types::Duration::try_from(interval).ok(),
        };
        self.call(self.metrics().watch_readings(request)).await
    }

    /// Two spans compared.
    pub(crate) async fn compare_profiles(&self, request: CompareProfilesRequest) -> Result<Comparison, ClientError> {
        let mut client = ProfileServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let response = self.call(client.compare_profiles(request)).await?;
        Ok(response.comparison.unwrap_or_default())
    }

    /// What the daemon does.
    pub(crate) async fn get_status(&self) -> Result<GetStatusResponse, ClientError> {
        let mut client = StatusServiceClient::new(self.channel.clone());
        self.call(client.get_status(GetStatusRequest {})).await
    }

    /// The configuration that the daemon runs with.
    pub(crate) async fn get_config(&self) -> Result<GetConfigResponse, ClientError> {
        let mut client = StatusServiceClient::new(self.channel.clone());
        self.call(client.get_config(GetConfigRequest {})).await
    }

    fn metrics(&self) -> MetricsServiceClient<Wire> {
        MetricsServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, ClientError> {
        within(self.timeout, async {
            call.await
                .map(tonic::Response::into_inner)
                .map_err(|status| refusal(&status))
        })
        .await
    }
}

/// Gives up after `timeout`.
async fn within<T>(timeout: Duration, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::Timeout { after: timeout }),
    }
}

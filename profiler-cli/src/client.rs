//! The connection to the daemon: one method per call, and every way in which it can fail in the user's words.

mod alerts;
mod growth;
mod memory;

use std::{
    error::Error as _,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use profiler_proto::v1::{
    CompareProfilesRequest, Comparison, GetConfigRequest, GetConfigResponse, GetRangeRequest, GetRangeResponse,
    GetSnapshotRequest, GetSnapshotResponse, GetStatusRequest, GetStatusResponse, ListMetricsRequest,
    ListProcessesRequest, MetricDescription, Process, Profile, ProfileSelector, ProfileView, QueryPprofRequest,
    QueryPprofResponse, QueryProfileRequest, ReadingSelector, WatchProcessRequest, WatchProcessResponse,
    WatchReadingsRequest, WatchReadingsResponse, metrics_service_client::MetricsServiceClient,
    process_service_client::ProcessServiceClient, profile_service_client::ProfileServiceClient,
    status_service_client::StatusServiceClient, watch_service_client::WatchServiceClient,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Largest answer taken from the daemon: a profile of all that it keeps, with room to spare.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no socket.
    #[error(
        "the profiler daemon is not running: there is no socket {}; start it with `systemctl start profiler-daemon` \
         or `sudo profiler-daemon`",
        socket.display()
    )]
    SocketMissing {
        /// Where it should be.
        socket: PathBuf,
    },
    /// Nobody listens on the socket.
    #[error(
        "the profiler daemon is not running: nobody listens on {}; start it with `systemctl start profiler-daemon` \
         or `sudo profiler-daemon`",
        socket.display()
    )]
    NobodyListens {
        /// The socket.
        socket: PathBuf,
    },
    /// The caller may not use the socket.
    #[error("permission denied on {}: {remedy}", socket.display())]
    SocketForbidden {
        /// The socket.
        socket: PathBuf,
        /// Who may use it, and how to become one of them.
        remedy: String,
    },
    /// The path cannot be one of a socket.
    #[error("{} cannot be the path of a socket: {source}", socket.display())]
    SocketPath {
        /// The path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be connected for another reason.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or what answers does not speak gRPC.
    #[error("the connection to the daemon was lost: {reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("the daemon did not answer within {} s; --timeout gives it longer", after.as_secs_f64())]
    Timeout {
        /// How long it was waited.
        after: Duration,
    },
    /// The caller lacks the role.
    #[error("not allowed: {message}")]
    NotAllowed {
        /// The daemon's words.
        message: String,
    },
    /// The daemon cannot do it on this host, or not now.
    #[error("the daemon cannot do this now: {message}")]
    Unavailable {
        /// The daemon's words.
        message: String,
    },
    /// The daemon does not know the call.
    #[error("the daemon does not know this request; is it of another version? ({message})")]
    Unimplemented {
        /// The daemon's words.
        message: String,
    },
    /// What was asked for does not exist.
    #[error("{message}")]
    NotFound {
        /// The daemon's words.
        message: String,
    },
    /// Any other refusal.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: Code,
        /// The daemon's words.
        message: String,
    },
}

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    timeout: Duration,
}

impl Client {
    /// Connects to the daemon's socket. Each call is given up after `timeout`.
    pub(crate) async fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
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
        let channel = within(timeout, async {
            let connected = endpoint.connect_with_connector(connector).await;
            connected.map_err(|error| ClientError::Lost {
                reason: innermost(&error),
            })
        })
        .await?;
        Ok(Self { channel, timeout })
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

    fn metrics(&self) -> MetricsServiceClient<Channel> {
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

/// What a gRPC status means to the user.
pub(crate) fn refusal(status: &Status) -> ClientError {
    // A status with a source was made on this side, out of a failure of the transport.
    if let Some(source) = status.source() {
        return ClientError::Lost {
            reason: innermost(source),
        };
    }
    let message = if status.message().is_empty() {
        format!("the daemon refused ({})", status.code())
    } else {
        status.message().to_owned()
    };
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => ClientError::NotAllowed { message },
        Code::Unavailable => ClientError::Unavailable { message },
        Code::Unimplemented => ClientError::Unimplemented { message },
        Code::NotFound => ClientError::NotFound { message },
        code => ClientError::Refused { code, message },
    }
}

/// The words of the first cause, which says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn classify_connect(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ClientError::SocketMissing { socket },
        io::ErrorKind::ConnectionRefused => ClientError::NobodyListens { socket },
        io::ErrorKind::PermissionDenied => {
            let remedy = remedy_for(socket_group(&socket).as_deref());
            ClientError::SocketForbidden { socket, remedy }
        }
        // Too long for an address, or with a zero byte.
        io::ErrorKind::InvalidInput => ClientError::SocketPath { socket, source },
        _ => ClientError::Connect { socket, source },
    }
}

/// The group that may use the socket; none if only root may.
fn socket_group(socket: &Path) -> Option<String> {
    // Where the directory cannot be entered, its own group is the one that can.
    let metadata = fs::metadata(socket)
        .or_else(|error| socket.parent().map_or(Err(error), fs::metadata))
        .ok()?;
    let group_id = metadata.gid();
    if group_id == 0 {
        return None;
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    Some(group_name(&groups, group_id).unwrap_or_else(|| group_id.to_string()))
}

/// The name of a group in the text of `/etc/group`.
fn group_name(groups: &str, group_id: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(group_id)).then(|| name.to_owned())
    })
}

fn remedy_for(group: Option<&str>) -> String {
    match group {
        None => "only root may use it; use sudo".to_owned(),
        Some(group) => format!(
            "it is for root and the group `{group}`; use sudo, or join the group with `sudo usermod -aG {group} \
             \"$USER\"` and log in anew"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_number() {
        let groups = "root:x:0:\nbroken\nprofiler:x:998:alice,bob\n";
        assert_eq!(group_name(groups, 998).as_deref(), Some("profiler"));
        assert_eq!(group_name(groups, 7), None);
        assert!(remedy_for(Some("profiler")).contains("usermod -aG profiler"));
        assert!(remedy_for(None).contains("sudo"));
    }

    #[test]
    fn statuses_become_refusals() {
        assert!(matches!(
            refusal(&Status::permission_denied("no")),
            ClientError::NotAllowed { .. }
        ));
        assert!(matches!(
            refusal(&Status::unavailable("no BTF")),
            ClientError::Unavailable { .. }
        ));
        assert!(matches!(
            refusal(&Status::not_found("gone")),
            ClientError::NotFound { .. }
        ));
        let broken = Status::from_error(Box::new(io::Error::other("reset")));
        assert!(matches!(refusal(&broken), ClientError::Lost { reason } if reason == "reset"));
        let silent = refusal(&Status::internal(""));
        assert!(silent.to_string().starts_with("the daemon refused"), "{silent}");
    }
}

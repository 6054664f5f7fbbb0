//! A double of the daemon that answers as its script says.

mod alerts;
mod memory;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use profiler_proto::v1::{
    CensusRequest, CensusResponse, CompareProfilesRequest, CompareProfilesResponse, GetConfigRequest,
    GetConfigResponse, GetRangeRequest, GetRangeResponse, GetSnapshotRequest, GetSnapshotResponse, GetStatusRequest,
    GetStatusResponse, LeaseWatchRequest, LeaseWatchResponse, ListGrowthRequest, ListGrowthResponse,
    ListMetricsRequest, ListMetricsResponse, ListProcessesRequest, ListProcessesResponse, MetricDescription, Process,
    Profile, ProfileSelector, QueryPprofRequest, QueryPprofResponse, QueryProfileRequest, QueryProfileResponse,
    Reading, ReadingSelector, WatchMappingsRequest, WatchProcessRequest, WatchProcessResponse, WatchReadingsRequest,
    WatchReadingsResponse,
    alert_service_server::AlertServiceServer,
    growth_service_server::GrowthServiceServer,
    memory_service_server::MemoryServiceServer,
    metrics_service_server::{MetricsService, MetricsServiceServer},
    process_service_server::{ProcessService, ProcessServiceServer},
    profile_service_server::{ProfileService, ProfileServiceServer},
    status_service_server::{StatusService, StatusServiceServer},
    watch_service_server::{WatchService, WatchServiceServer},
};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

pub(crate) use self::alerts::{AlertScript, AskedOfAlerts};

/// What the double answers.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) processes: Result<Vec<Process>, Status>,
    pub(crate) watch: Result<Vec<WatchStep>, Status>,
    pub(crate) profile: Result<Profile, Status>,
    pub(crate) pprof: Result<QueryPprofResponse, Status>,
    pub(crate) comparison: Result<CompareProfilesResponse, Status>,
    pub(crate) status: Result<GetStatusResponse, Status>,
    pub(crate) config: Result<GetConfigResponse, Status>,
    pub(crate) metrics: Vec<MetricDescription>,
    pub(crate) readings: Result<Vec<Reading>, Status>,
    pub(crate) range: Result<GetRangeResponse, Status>,
    /// All that comes on a stream of readings.
    pub(crate) reading_stream: Result<Vec<WatchReadingsResponse>, Status>,
    pub(crate) alerts: AlertScript,
    pub(crate) census: Result<CensusResponse, Status>,
    pub(crate) growth: Result<ListGrowthResponse, Status>,
    /// How long every answer but a watch's takes.
    pub(crate) delay: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            processes: Ok(Vec::new()),
            watch: Ok(Vec::new()),
            profile: Ok(Profile::default()),
            pprof: Ok(QueryPprofResponse::default()),
            comparison: Ok(CompareProfilesResponse::default()),
            status: Ok(GetStatusResponse::default()),
            config: Ok(GetConfigResponse::default()),
            metrics: Vec::new(),
            readings: Ok(Vec::new()),
            range: Ok(GetRangeResponse::default()),
            reading_stream: Ok(Vec::new()),
            alerts: AlertScript::default(),
            census: Ok(CensusResponse::default()),
            growth: Ok(ListGrowthResponse::default()),
            delay: Duration::ZERO,
        }
    }
}

/// What happens on the stream of a watch. After the last step the stream stays open and silent.
#[derive(Clone, Debug)]
pub(crate) enum WatchStep {
    Report(WatchProcessResponse),
    Wait(Duration),
    Fail(Status),
    End,
}

/// What the double was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) watched: Vec<u32>,
    /// Those of them whose calls for memory were asked for.
    pub(crate) mappings: Vec<u32>,
    pub(crate) queries: Vec<Query>,
    pub(crate) comparisons: Vec<CompareProfilesRequest>,
    pub(crate) readings: Vec<ReadingQuery>,
    pub(crate) alerts: AskedOfAlerts,
    pub(crate) censuses: Vec<CensusRequest>,
    pub(crate) growths: Vec<ListGrowthRequest>,
    pub(crate) open_watches: usize,
}

/// One query of a profile.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) selector: ProfileSelector,
    /// Whether it was for pprof.
    pub(crate) pprof: bool,
    /// Streams of watches that were open then.
    pub(crate) open_watches: usize,
}

/// One query of readings.
#[derive(Clone, Debug)]
pub(crate) struct ReadingQuery {
    pub(crate) selector: ReadingSelector,
    /// Of a span its step, of a stream its interval.
    pub(crate) step: Option<Duration>,
    pub(crate) quantiles: Vec<f64>,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    seen: Mutex<Seen>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    async fn answer<T: Clone>(&self, result: &Result<T, Status>) -> Result<Response<T>, Status> {
        tokio::time::sleep(self.script.delay).await;
        result.clone().map(Response::new)
    }
}

/// A double of the daemon, answering until it is dropped.
pub(crate) struct FakeDaemon {
    shared: Arc<Shared>,
    directory: TempDir,
    runtime: Option<Runtime>,
}

impl FakeDaemon {
    /// Starts to answer.
    pub(crate) fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            script,
            seen: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(directory.path().join("profiler.sock")).unwrap()
        };
        let service = Service(Arc::clone(&shared));
        runtime.spawn(
            Server::builder()
                .add_service(AlertServiceServer::new(service.clone()))
                .add_service(GrowthServiceServer::new(service.clone()))
                .add_service(MemoryServiceServer::new(service.clone()))
                .add_service(MetricsServiceServer::new(service.clone()))
                .add_service(ProcessServiceServer::new(service.clone()))
                .add_service(ProfileServiceServer::new(service.clone()))
                .add_service(StatusServiceServer::new(service.clone()))
                .add_service(WatchServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self {
            shared,
            directory,
            runtime: Some(runtime),
        }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("profiler.sock")
    }

    /// A directory of its own, for what a test writes.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it was asked so far.
    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Dies without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl Service {
    fn note_query(&self, selector: Option<ProfileSelector>, pprof: bool) {
        let mut seen = self.0.seen();
        let open_watches = seen.open_watches;
        let selector = selector.unwrap_or_default();
        seen.queries.push(Query {
            selector,
            pprof,
            open_watches,
        });
    }
}

impl Service {
    fn note_readings(
        &self,
        selector: Option<ReadingSelector>,
        step: Option<prost_types::Duration>,
        quantiles: Vec<f64>,
    ) {
        self.0.seen().readings.push(ReadingQuery {
            selector: selector.unwrap_or_default(),
            step: step.map(|step| step.try_into().unwrap()),
            quantiles,
        });
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    type WatchReadingsStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchReadingsResponse, Status>>>;

    async fn list_metrics(&self, _: Request<ListMetricsRequest>) -> Result<Response<ListMetricsResponse>, Status> {
        let metrics = self.0.script.metrics.clone();
        self.0.answer(&Ok(ListMetricsResponse { metrics })).await
    }

    async fn get_snapshot(
        &self,
        request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        self.note_readings(request.into_inner().selector, None, Vec::new());
        let readings = self.0.script.readings.clone();
        let time = Some(prost_types::Timestamp::default());
        self.0
            .answer(&readings.map(|readings| GetSnapshotResponse { time, readings }))
            .await
    }

    async fn get_range(&self, request: Request<GetRangeRequest>) -> Result<Response<GetRangeResponse>, Status> {
        let request = request.into_inner();
        self.note_readings(request.selector, request.step, request.quantiles);
        self.0.answer(&self.0.script.range).await
    }

    async fn watch_readings(
        &self,
        request: Request<WatchReadingsRequest>,
    ) -> Result<Response<Self::WatchReadingsStream>, Status> {
        let request = request.into_inner();
        self.note_readings(request.selector, request.interval, Vec::new());
        let messages = self.0.script.reading_stream.clone()?;
        let messages: Vec<_> = messages.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }
}

#[tonic::async_trait]
impl ProcessService for Service {
    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        let wanted = |process: &Process| request.get_ref().pid.is_none_or(|pid| process.pid == pid);
        let result = self.0.script.processes.clone().map(|processes| ListProcessesResponse {
            processes: processes.into_iter().filter(wanted).collect(),
        });
        self.0.answer(&result).await
    }
}

#[tonic::async_trait]
impl ProfileService for Service {
    async fn query_profile(
        &self,
        request: Request<QueryProfileRequest>,
    ) -> Result<Response<QueryProfileResponse>, Status> {
        self.note_query(request.into_inner().selector, false);
        let result = self.0.script.profile.clone();
        self.0
            .answer(&result.map(|profile| QueryProfileResponse { profile: Some(profile) }))
            .await
    }

    async fn query_pprof(&self, request: Request<QueryPprofRequest>) -> Result<Response<QueryPprofResponse>, Status> {
        self.note_query(request.into_inner().selector, true);
        self.0.answer(&self.0.script.pprof).await
    }

    async fn compare_profiles(
        &self,
        request: Request<CompareProfilesRequest>,
    ) -> Result<Response<CompareProfilesResponse>, Status> {
        self.0.seen().comparisons.push(request.into_inner());
        self.0.answer(&self.0.script.comparison).await
    }
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        self.0.answer(&self.0.script.status).await
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        self.0.answer(&self.0.script.config).await
    }
}

#[tonic::async_trait]
impl WatchService for Service {
    type WatchProcessStream = ReceiverStream<Result<WatchProcessResponse, Status>>;

    async fn watch_process(
        &self,
        request: Request<WatchProcessRequest>,
    ) -> Result<Response<Self::WatchProcessStream>, Status> {
        let steps = self.0.script.watch.clone()?;
        let (reports, stream) = mpsc::channel(1);
        let shared = Arc::clone(&self.0);
        {
            let mut seen = shared.seen();
            seen.watched.push(request.get_ref().pid);
            seen.open_watches += 1;
        }
        tokio::spawn(async move {
            play(steps, &reports).await;
            shared.seen().open_watches -= 1;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type WatchMappingsStream = ReceiverStream<Result<WatchProcessResponse, Status>>;

    async fn watch_mappings(
        &self,
        request: Request<WatchMappingsRequest>,
    ) -> Result<Response<Self::WatchMappingsStream>, Status> {
        let pid = request.get_ref().pid;
        self.0.seen().mappings.push(pid);
        self.watch_process(Request::new(WatchProcessRequest { pid })).await
    }

    async fn lease_watch(&self, _: Request<LeaseWatchRequest>) -> Result<Response<LeaseWatchResponse>, Status> {
        Err(Status::unimplemented("the command line asks for no leases"))
    }
}

async fn play(steps: Vec<WatchStep>, reports: &mpsc::Sender<Result<WatchProcessResponse, Status>>) {
    for step in steps {
        let sent = match step {
            WatchStep::Report(report) => reports.send(Ok(report)).await,
            WatchStep::Fail(status) => reports.send(Err(status)).await,
            WatchStep::Wait(duration) => {
                tokio::time::sleep(duration).await;
                Ok(())
            }
            WatchStep::End => return,
        };
        if sent.is_err() {
            return;
        }
    }
    reports.closed().await;
}

/// A socket on which nobody listens any more.
pub(crate) fn abandoned_socket(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join("abandoned.sock");
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    Ok(path)
}

//! What the double says of limits, alerts, silences and sinks.

use profiler_proto::v1::{
    CreateSilenceRequest, CreateSilenceResponse, ExpireSilenceRequest, ExpireSilenceResponse, GetAlertRequest,
    GetAlertResponse, Limit, ListAlertsRequest, ListAlertsResponse, ListLimitsRequest, ListLimitsResponse,
    ListSilencesRequest, ListSilencesResponse, ListSinksRequest, ListSinksResponse, Silence, Sink, TestSinkRequest,
    TestSinkResponse, WatchAlertsRequest, WatchAlertsResponse, alert_service_server::AlertService,
};
use tonic::{Request, Response, Status};

use super::Service;

/// What the double answers.
#[derive(Clone, Debug)]
pub(crate) struct AlertScript {
    pub(crate) limits: Vec<Limit>,
    pub(crate) list: Result<ListAlertsResponse, Status>,
    pub(crate) alert: Result<GetAlertResponse, Status>,
    /// All that comes on a stream of changes.
    pub(crate) changes: Result<Vec<WatchAlertsResponse>, Status>,
    pub(crate) silences: Vec<Silence>,
    pub(crate) created: Result<Silence, Status>,
    pub(crate) expired: Result<(), Status>,
    pub(crate) sinks: Vec<Sink>,
    pub(crate) tested: Result<(), Status>,
}

impl Default for AlertScript {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            list: Ok(ListAlertsResponse::default()),
            alert: Ok(GetAlertResponse::default()),
            changes: Ok(Vec::new()),
            silences: Vec::new(),
            created: Ok(Silence::default()),
            expired: Ok(()),
            sinks: Vec::new(),
            tested: Ok(()),
        }
    }
}

/// What the double was asked about alerts.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskedOfAlerts {
    pub(crate) lists: Vec<ListAlertsRequest>,
    pub(crate) alerts: Vec<GetAlertRequest>,
    pub(crate) created: Vec<CreateSilenceRequest>,
    pub(crate) expired: Vec<u64>,
    pub(crate) tested: Vec<String>,
}

impl Service {
    fn alerts(&self) -> &AlertScript {
        &self.0.script.alerts
    }
}

#[tonic::async_trait]
impl AlertService for Service {
    type WatchAlertsStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchAlertsResponse, Status>>>;

    async fn list_limits(&self, _: Request<ListLimitsRequest>) -> Result<Response<ListLimitsResponse>, Status> {
        let limits = self.alerts().limits.clone();
        self.0.answer(&Ok(ListLimitsResponse { limits })).await
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        self.0.seen().alerts.lists.push(request.into_inner());
        self.0.answer(&self.alerts().list).await
    }

    async fn get_alert(&self, request: Request<GetAlertRequest>) -> Result<Response<GetAlertResponse>, Status> {
        self.0.seen().alerts.alerts.push(request.into_inner());
        self.0.answer(&self.alerts().alert).await
    }

    async fn watch_alerts(&self, _: Request<WatchAlertsRequest>) -> Result<Response<Self::WatchAlertsStream>, Status> {
        let changes = self.alerts().changes.clone()?;
        let changes: Vec<_> = changes.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(changes)))
    }

    async fn list_silences(&self, _: Request<ListSilencesRequest>) -> Result<Response<ListSilencesResponse>, Status> {
        let silences = self.alerts().silences.clone();
        self.0.answer(&Ok(ListSilencesResponse { silences })).await
    }

    async fn create_silence(
        &self,
        request: Request<CreateSilenceRequest>,
    ) -> Result<Response<CreateSilenceResponse>, Status> {
        self.0.seen().alerts.created.push(request.into_inner());
        let created = self.alerts().created.clone();
        let silence = created.map(|silence| CreateSilenceResponse { silence: Some(silence) });
        self.0.answer(&silence).await
    }

    async fn expire_silence(
        &self,
        request: Request<ExpireSilenceRequest>,
    ) -> Result<Response<ExpireSilenceResponse>, Status> {
        self.0.seen().alerts.expired.push(request.into_inner().id);
        let expired = self.alerts().expired.clone();
        self.0.answer(&expired.map(|()| ExpireSilenceResponse {})).await
    }

    async fn list_sinks(&self, _: Request<ListSinksRequest>) -> Result<Response<ListSinksResponse>, Status> {
        let sinks = self.alerts().sinks.clone();
        self.0.answer(&Ok(ListSinksResponse { sinks })).await
    }

    async fn test_sink(&self, request: Request<TestSinkRequest>) -> Result<Response<TestSinkResponse>, Status> {
        self.0.seen().alerts.tested.push(request.into_inner().sink);
        let tested = self.alerts().tested.clone();
        self.0.answer(&tested.map(|()| TestSinkResponse {})).await
    }
}

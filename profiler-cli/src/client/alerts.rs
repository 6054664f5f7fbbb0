//! Calls about limits, alerts and silences.

use profiler_proto::v1::{
    CreateSilenceRequest, ExpireSilenceRequest, GetAlertRequest, GetAlertResponse, Limit, ListAlertsRequest,
    ListAlertsResponse, ListLimitsRequest, ListSilencesRequest, ListSinksRequest, Silence, Sink, TestSinkRequest,
    WatchAlertsRequest, WatchAlertsResponse, alert_service_client::AlertServiceClient,
};
use tonic::Streaming;

use super::{Client, ClientError, MAX_MESSAGE_BYTES, Wire};

impl Client {
    /// The limits in force.
    pub(crate) async fn list_limits(&self) -> Result<Vec<Limit>, ClientError> {
        let response = self.call(self.alerts().list_limits(ListLimitsRequest {})).await?;
        Ok(response.limits)
    }

    /// Alerts, the newest first.
    pub(crate) async fn list_alerts(&self, request: ListAlertsRequest) -> Result<ListAlertsResponse, ClientError> {
        self.call(self.alerts().list_alerts(request)).await
    }

    /// One alert, and what was found about it.
    pub(crate) async fn get_alert(&self, id: &str, with_evidence: bool) -> Result<GetAlertResponse, ClientError> {
        let id = id.to_owned();
        self.call(self.alerts().get_alert(GetAlertRequest { id, with_evidence }))
            .await
    }

    /// Who is told of alerts.
    pub(crate) async fn list_sinks(&self) -> Result<Vec<Sink>, ClientError> {
        let response = self.call(self.alerts().list_sinks(ListSinksRequest {})).await?;
        Ok(response.sinks)
    }

    /// Tells a sink of a test.
    pub(crate) async fn test_sink(&self, sink: &str) -> Result<(), ClientError> {
        let sink = sink.to_owned();
        self.call(self.alerts().test_sink(TestSinkRequest { sink })).await?;
        Ok(())
    }

    /// What is pending or firing now, then every change.
    pub(crate) async fn watch_alerts(&self) -> Result<Streaming<WatchAlertsResponse>, ClientError> {
        self.call(self.alerts().watch_alerts(WatchAlertsRequest {})).await
    }

    /// The silences that hold.
    pub(crate) async fn list_silences(&self) -> Result<Vec<Silence>, ClientError> {
        let response = self.call(self.alerts().list_silences(ListSilencesRequest {})).await?;
        Ok(response.silences)
    }

    /// Makes a silence.
    pub(crate) async fn create_silence(&self, request: CreateSilenceRequest) -> Result<Silence, ClientError> {
        let response = self.call(self.alerts().create_silence(request)).await?;
        Ok(response.silence.unwrap_or_default())
    }

    /// Ends a silence.
    pub(crate) async fn expire_silence(&self, id: u64) -> Result<(), ClientError> {
        self.call(self.alerts().expire_silence(ExpireSilenceRequest { id }))
            .await?;
        Ok(())
    }

    fn alerts(&self) -> AlertServiceClient<Wire> {
        AlertServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

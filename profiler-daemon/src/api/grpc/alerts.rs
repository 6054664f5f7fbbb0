//! Answers with limits, alerts and silences.

use std::sync::Arc;

use profiler_proto::v1::{
    CreateSilenceRequest, CreateSilenceResponse, ExpireSilenceRequest, ExpireSilenceResponse, GetAlertRequest,
    GetAlertResponse, ListAlertsRequest, ListAlertsResponse, ListLimitsRequest, ListLimitsResponse,
    ListSilencesRequest, ListSilencesResponse, ListSinksRequest, ListSinksResponse, TestSinkRequest, TestSinkResponse,
    WatchAlertsRequest, WatchAlertsResponse, alert_service_server::AlertService,
};
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{self, error::RecvError},
    mpsc, watch,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    alerting::{Command, ShownChange},
    api::{
        Context, MAX_ALERT_STREAMS,
        access::Role,
        convert::{alerts as convert, evidence},
        grpc::profiles::blocking,
        peer, server,
        status::ApiError,
    },
};

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Alerts {
    pub(in crate::api) context: Arc<Context>,
    /// Turns true when the daemon ends: streams must not keep it.
    pub(in crate::api) stop: watch::Receiver<bool>,
}

impl Alerts {
    async fn limits(&self) -> Result<ListLimitsResponse, ApiError> {
        let limits = self.context.alerting.ask(|reply| Command::Limits { reply }).await?;
        Ok(ListLimitsResponse {
            limits: limits.iter().map(convert::limit).collect(),
        })
    }

    async fn list(&self, request: &ListAlertsRequest) -> Result<ListAlertsResponse, ApiError> {
        let mut query = convert::query(request);
        let page = query.most;
        // One more tells whether there are more.
        query.most = page + 1;
        let shown = self
            .context
            .alerting
            .ask(|reply| Command::List { query, reply })
            .await??;
        Ok(ListAlertsResponse {
            truncated: shown.len() > page,
            alerts: shown.iter().take(page).map(convert::alert).collect(),
        })
    }

    async fn get(&self, request: &GetAlertRequest, asker: &peer::Peer) -> Result<GetAlertResponse, ApiError> {
        let id = convert::alert_id(&request.id)?;
        let found = self.context.alerting.ask(|reply| Command::Get { id, reply }).await??;
        let found = found.ok_or_else(|| ApiError::NoSuchAlert { id: id.to_string() })?;
        let alert = convert::alert(&found.shown);
        // They name functions and stacks.
        let findings = match asker.has(Role::Profile) {
            true => found.lines.clone(),
            false => Vec::new(),
        };
        let evidence = match request.with_evidence {
            true => blocking(move || Ok(found.unpack().as_deref().and_then(evidence::decode))).await?,
            false => None,
        };
        Ok(GetAlertResponse {
            alert: Some(alert),
            findings,
            evidence,
        })
    }

    fn sinks(&self) -> ListSinksResponse {
        let statuses = self.context.alerting.dispatcher().statuses();
        ListSinksResponse {
            sinks: statuses.into_iter().map(convert::sink).collect(),
        }
    }

    async fn silences(&self) -> Result<ListSilencesResponse, ApiError> {
        let silences = self.context.alerting.ask(|reply| Command::Silences { reply }).await?;
        Ok(ListSilencesResponse {
            silences: silences.into_iter().map(convert::silence).collect(),
        })
    }

    async fn silence(&self, request: CreateSilenceRequest, who: String) -> Result<CreateSilenceResponse, ApiError> {
        let duration = convert::silence_duration(request.duration)?;
        let matchers = convert::matchers(request.matchers);
        let comment = request.comment;
        let made = self.context.alerting.ask(|reply| Command::Silence {
            matchers,
            duration,
            who,
            comment,
            reply,
        });
        Ok(CreateSilenceResponse {
            silence: Some(convert::silence(made.await??)),
        })
    }

    async fn unsilence(&self, id: u64) -> Result<ExpireSilenceResponse, ApiError> {
        let id = profiler_alerts::SilenceId(id);
        let ended = self.context.alerting.ask(|reply| Command::Unsilence { id, reply });
        match ended.await?? {
            true => Ok(ExpireSilenceResponse {}),
            false => Err(ApiError::NoSuchSilence { id: id.0 }),
        }
    }
}

/// One stream of changes.
#[derive(Debug)]
struct Stream {
    changes: broadcast::Receiver<ShownChange>,
    now: ListAlertsResponse,
    messages: mpsc::Sender<Result<WatchAlertsResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// Sends what there is now, then changes until the client is gone or the daemon ends.
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        for alert in std::mem::take(&mut self.now.alerts) {
            let message = WatchAlertsResponse {
                alert: Some(alert),
                change: "now".to_owned(),
                missed: 0,
            };
            if self.messages.send(Ok(message)).await.is_err() {
                return;
            }
        }
        let mut missed = 0;
        loop {
            let message = tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(ShownChange { change, shown }) => Ok(WatchAlertsResponse {
                        alert: Some(convert::alert(&shown)),
                        change: convert::change(change).to_owned(),
                        missed: std::mem::take(&mut missed),
                    }),
                    Err(RecvError::Lagged(lagged)) => {
                        missed += lagged;
                        continue;
                    }
                    Err(RecvError::Closed) => Err(ApiError::Stopping.into()),
                },
                () = self.messages.closed() => return,
                () = server::stopped(&mut stop) => Err(ApiError::Stopping.into()),
            };
            let is_last = message.is_err();
            if self.messages.send(message).await.is_err() || is_last {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl AlertService for Alerts {
    type WatchAlertsStream = ReceiverStream<Result<WatchAlertsResponse, Status>>;

    async fn list_limits(&self, request: Request<ListLimitsRequest>) -> Result<Response<ListLimitsResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.limits().await?))
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.list(request.get_ref()).await?))
    }

    async fn get_alert(&self, request: Request<GetAlertRequest>) -> Result<Response<GetAlertResponse>, Status> {
        let peer = peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let request = request.into_inner();
        if request.with_evidence {
            peer.require(Role::Profile).map_err(ApiError::from)?;
        }
        Ok(Response::new(self.get(&request, &peer).await?))
    }

    async fn watch_alerts(
        &self,
        request: Request<WatchAlertsRequest>,
    ) -> Result<Response<Self::WatchAlertsStream>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let Ok(permit) = Arc::clone(&self.context.alert_streams).try_acquire_owned() else {
            return Err(ApiError::TooMany {
                what: "streams of alerts",
                limit: MAX_ALERT_STREAMS,
            }
            .into());
        };
        let all_live = ListAlertsRequest {
            page_size: u32::MAX,
            ..ListAlertsRequest::default()
        };
        // Before what there is now is asked for: no change is missed, and one may be told twice.
        let changes = self.context.alerting.subscribe();
        let (messages, receiver) = mpsc::channel(1);
        let stream = Stream {
            changes,
            now: self.list(&all_live).await?,
            messages,
            _permit: permit,
        };
        tokio::spawn(stream.run(self.stop.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_silences(
        &self,
        request: Request<ListSilencesRequest>,
    ) -> Result<Response<ListSilencesResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.silences().await?))
    }

    async fn create_silence(
        &self,
        request: Request<CreateSilenceRequest>,
    ) -> Result<Response<CreateSilenceResponse>, Status> {
        let who = peer::require(&request, Role::Act).map_err(ApiError::from)?.who();
        Ok(Response::new(self.silence(request.into_inner(), who).await?))
    }

    async fn expire_silence(
        &self,
        request: Request<ExpireSilenceRequest>,
    ) -> Result<Response<ExpireSilenceResponse>, Status> {
        peer::require(&request, Role::Act).map_err(ApiError::from)?;
        Ok(Response::new(self.unsilence(request.get_ref().id).await?))
    }

    async fn list_sinks(&self, request: Request<ListSinksRequest>) -> Result<Response<ListSinksResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.sinks()))
    }

    async fn test_sink(&self, request: Request<TestSinkRequest>) -> Result<Response<TestSinkResponse>, Status> {
        peer::require(&request, Role::Act).map_err(ApiError::from)?;
        let tested = self.context.alerting.dispatcher().test(&request.get_ref().sink).await;
        tested.map_err(ApiError::from)?;
        Ok(Response::new(TestSinkResponse {}))
    }
}

//! Answers with readings: now, over a span, and as they come.

use std::{collections::HashMap, sync::Arc, time::Duration};

use profiler_proto::v1::{
    GetRangeRequest, GetRangeResponse, GetSnapshotRequest, GetSnapshotResponse, ListMetricsRequest,
    ListMetricsResponse, Reading, WatchReadingsRequest, WatchReadingsResponse, metrics_service_server::MetricsService,
};
use profiler_readings::Metric;
use profiler_store::Moment;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    api::{
        Context, MAX_READING_STREAMS,
        access::Role,
        convert::readings::{self as convert, Selector},
        peer, server,
        status::ApiError,
    },
    readings::Board,
};

/// Readings of one snapshot.
const MAX_READINGS: usize = 50_000;
/// Steps of all series of one answer.
const MAX_STEPS: u64 = 200_000;

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Metrics {
    pub(in crate::api) context: Arc<Context>,
    /// Turns true when the daemon ends: streams must not keep it.
    pub(in crate::api) stop: watch::Receiver<bool>,
}

/// The latest reading of each series that is asked for.
fn snapshot(board: &Board, selector: &Selector) -> Result<(Moment, Vec<Reading>), ApiError> {
    let now = Board::now();
    let latest = board.series().latest(now.steady, |series| selector.wants(series));
    if latest.len() > MAX_READINGS {
        return Err(ApiError::TooManyReadings {
            found: latest.len() as u64,
            what: "readings",
            limit: MAX_READINGS as u64,
        });
    }
    let readings = latest.into_iter().map(|latest| convert::reading(latest, now));
    Ok((now, readings.collect()))
}

impl Metrics {
    fn list(&self) -> ListMetricsResponse {
        let mut counts: HashMap<Metric, usize> = HashMap::new();
        for series in self.context.readings.series().series() {
            *counts.entry(series.metric).or_default() += 1;
        }
        let count = |metric: &Metric| counts.get(metric).copied().unwrap_or_default();
        let metrics = Metric::ALL.iter().map(|metric| convert::metric(*metric, count(metric)));
        ListMetricsResponse {
            metrics: metrics.collect(),
        }
    }

    fn range(&self, request: GetRangeRequest) -> Result<GetRangeResponse, ApiError> {
        let now = Board::now();
        let query = convert::range_query(request, now)?;
        let store = self.context.readings.series();
        let wanted = || store.series().filter(|series| query.selector.wants(series));
        // As many as can have a value; a series has one for each second at most.
        let steps = query.steps.count().saturating_mul(wanted().count() as u64);
        if steps > MAX_STEPS {
            return Err(ApiError::TooManyReadings {
                found: steps,
                what: "steps",
                limit: MAX_STEPS,
            });
        }
        let series = wanted().filter_map(|series| {
            let range = series.range(query.steps, &query.quantiles);
            convert::series(&series, &range)
        });
        let series = series.collect();
        Ok(convert::range(query.steps, now, series))
    }
}

/// One stream of snapshots.
#[derive(Debug)]
struct Stream {
    board: Arc<Board>,
    selector: Selector,
    interval: Duration,
    messages: mpsc::Sender<Result<WatchReadingsResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// Sends snapshots until the client is gone or the daemon ends.
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                _ = interval.tick() => match snapshot(&self.board, &self.selector) {
                    Ok((now, readings)) => Ok(WatchReadingsResponse {
                        time: Some(convert::timestamp(now.wall)),
                        readings,
                    }),
                    Err(error) => Err(Status::from(error)),
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
impl MetricsService for Metrics {
    type WatchReadingsStream = ReceiverStream<Result<WatchReadingsResponse, Status>>;

    async fn list_metrics(
        &self,
        request: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.list()))
    }

    async fn get_snapshot(
        &self,
        request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let selector = convert::selector(request.into_inner().selector).map_err(ApiError::from)?;
        let (now, readings) = snapshot(&self.context.readings, &selector)?;
        Ok(Response::new(GetSnapshotResponse {
            time: Some(convert::timestamp(now.wall)),
            readings,
        }))
    }

    async fn get_range(&self, request: Request<GetRangeRequest>) -> Result<Response<GetRangeResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.range(request.into_inner())?))
    }

    async fn watch_readings(
        &self,
        request: Request<WatchReadingsRequest>,
    ) -> Result<Response<Self::WatchReadingsStream>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let request = request.into_inner();
        let Ok(permit) = Arc::clone(&self.context.reading_streams).try_acquire_owned() else {
            return Err(ApiError::TooMany {
                what: "streams of readings",
                limit: MAX_READING_STREAMS,
            }
            .into());
        };
        let (messages, receiver) = mpsc::channel(1);
        let stream = Stream {
            board: Arc::clone(&self.context.readings),
            selector: convert::selector(request.selector).map_err(ApiError::from)?,
            interval: convert::watch_interval(request.interval).map_err(ApiError::from)?,
            messages,
            _permit: permit,
        };
        tokio::spawn(stream.run(self.stop.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

//! Watches processes for as long as a client listens, or for a lease.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use profiler_proto::v1::{
    LeaseWatchRequest, LeaseWatchResponse, WatchMappingsRequest, WatchProcessRequest, WatchProcessResponse,
    watch_service_server::WatchService,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, MAX_STREAM_WATCHES, access::Role, convert, count, peer, server, status::ApiError},
    command::{Command, Lease, WatchId, WatchProgress, WatchStart},
    kernel::records::Pid,
};

/// Time between two messages of a stream.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long exact stacks of calls for memory are taken at most: who records for ten minutes has some seconds left to ask for them.
const MAX_MAPPINGS_TIME: Duration = Duration::from_secs(610);

/// What a stream sends.
type Progress = ReceiverStream<Result<WatchProcessResponse, Status>>;

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Watches {
    pub(in crate::api) context: Arc<Context>,
    /// Turns true when the daemon ends: streams must not keep it.
    pub(in crate::api) stop: watch::Receiver<bool>,
}

/// A watch that ends when this is dropped, whatever became of the request.
///
/// The place for the end in the queue of commands is taken before the watch begins: an end that could be refused would
/// leave the process watched for ever.
#[derive(Debug)]
struct StreamWatch {
    id: WatchId,
    end: Option<mpsc::OwnedPermit<Command>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.send(Command::EndWatch { id: self.id });
        }
    }
}

/// One stream: its watch, and where its messages go.
#[derive(Debug)]
struct Stream {
    context: Arc<Context>,
    watch: StreamWatch,
    start: WatchStart,
    began: Instant,
    /// When the watch may last no longer, if ever.
    ends: Option<Instant>,
    messages: mpsc::Sender<Result<WatchProcessResponse, Status>>,
}

impl Watches {
    async fn begin(&self, pid: Pid) -> Result<(StreamWatch, WatchStart), ApiError> {
        let context = &self.context;
        let Ok(permit) = Arc::clone(&context.watches).try_acquire_owned() else {
            count(&context.refused_watches);
            return Err(ApiError::TooMany {
                what: "watches by streams",
                limit: MAX_STREAM_WATCHES,
            });
        };
        let id = WatchId(context.next_watch.fetch_add(1, Ordering::Relaxed));
        let watch = StreamWatch {
            id,
            end: Some(context.engine.reserve()?),
            _permit: permit,
        };
        let until = Lease::Stream(id);
        let start = context
            .engine
            .ask(|reply| Command::Watch { pid, until, reply })
            .await??;
        Ok((watch, start))
    }

    /// The same, with the calls by which the process asks for memory.
    async fn begin_mappings(&self, pid: Pid) -> Result<(StreamWatch, WatchStart), ApiError> {
        // Ends with the error, if there is one.
        let (watch, start) = self.begin(pid).await?;
        let id = watch.id;
        self.context
            .engine
            .ask(|reply| Command::TakeMapped { id, pid, reply })
            .await??;
        Ok((watch, start))
    }

    /// Sends progress for as long as somebody listens, and until `ends`.
    fn stream(&self, (watch, start): (StreamWatch, WatchStart), ends: Option<Instant>) -> Response<Progress> {
        let (messages, receiver) = mpsc::channel(1);
        let stream = Stream {
            context: Arc::clone(&self.context),
            watch,
            start,
            began: Instant::now(),
            ends,
            messages,
        };
        tokio::spawn(stream.run(self.stop.clone()));
        Response::new(ReceiverStream::new(receiver))
    }

    async fn lease(&self, request: LeaseWatchRequest) -> Result<LeaseWatchResponse, ApiError> {
        let pid = convert::pid(request.pid)?;
        let duration = convert::lease(request.duration)?;
        let expires = SystemTime::now() + duration;
        let until = Lease::Until(Instant::now() + duration);
        self.context
            .engine
            .ask(|reply| Command::Watch { pid, until, reply })
            .await??;
        Ok(LeaseWatchResponse {
            expire_time: Some(expires.into()),
        })
    }
}

impl Stream {
    /// Sends progress until the process or the client is gone, or the daemon ends.
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let ends = self.ends;
        let end = async move {
            match ends {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = WatchProgress::default();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.messages.closed() => return,
                () = &mut end => {
                    self.send(Err(ApiError::MappingsTooLong { limit: MAX_MAPPINGS_TIME }.into())).await;
                    return;
                }
                () = server::stopped(&mut stop) => {
                    self.send(Err(ApiError::Stopping.into())).await;
                    return;
                }
            }
            let id = self.watch.id;
            match self
                .context
                .engine
                .ask(|reply| Command::WatchProgress { id, reply })
                .await
            {
                // A process of which nothing is known any more has exited.
                Ok(progress) => last = progress.unwrap_or(WatchProgress { exited: true, ..last }),
                Err(error) => {
                    self.send(Err(ApiError::from(error).into())).await;
                    return;
                }
            }
            let message = convert::watch_progress(last, self.began.elapsed(), self.start.already_watched);
            if !self.send(Ok(message)).await || last.exited {
                return;
            }
        }
    }

    /// Whether the client still listens.
    async fn send(&self, message: Result<WatchProcessResponse, Status>) -> bool {
        self.messages.send(message).await.is_ok()
    }
}

#[tonic::async_trait]
impl WatchService for Watches {
    type WatchProcessStream = Progress;
    type WatchMappingsStream = Progress;

    async fn watch_process(
        &self,
        request: Request<WatchProcessRequest>,
    ) -> Result<Response<Self::WatchProcessStream>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        let pid = convert::pid(request.get_ref().pid).map_err(ApiError::from)?;
        Ok(self.stream(self.begin(pid).await?, None))
    }

    async fn watch_mappings(
        &self,
        request: Request<WatchMappingsRequest>,
    ) -> Result<Response<Self::WatchMappingsStream>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        let pid = convert::pid(request.get_ref().pid).map_err(ApiError::from)?;
        let begun = self.begin_mappings(pid).await?;
        Ok(self.stream(begun, Some(Instant::now() + MAX_MAPPINGS_TIME)))
    }

    async fn lease_watch(&self, request: Request<LeaseWatchRequest>) -> Result<Response<LeaseWatchResponse>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        Ok(Response::new(self.lease(request.into_inner()).await?))
    }
}

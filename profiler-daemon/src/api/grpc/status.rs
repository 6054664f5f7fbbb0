//! Reports on the daemon itself.

use std::{
    sync::atomic::Ordering,
    sync::{Arc, PoisonError},
    time::Duration,
};

use profiler_proto::v1::{
    ApiStatus, GetConfigRequest, GetConfigResponse, GetStatusRequest, GetStatusResponse,
    status_service_server::StatusService,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, access::Role, convert, peer, status::ApiError},
    command::{Command, EngineStatus},
    health::{Descriptors, OwnCost, Part, PartState},
};

/// Longest wait for the sampling loop. The status of the rest must come even if the loop hangs.
const LOOP_TIMEOUT: Duration = Duration::from_secs(3);

/// A loop that makes no turn for so long is not late but hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Reports {
    pub(in crate::api) context: Arc<Context>,
}

impl Reports {
    async fn status(&self) -> GetStatusResponse {
        let context = &self.context;
        let mut parts = context.health.parts();
        let engine = self.engine().await;
        if let Err(state) = &engine {
            let state = state.clone();
            // Why sampling was never possible says more than that its loop does not run.
            match parts.iter_mut().find(|(part, _)| *part == Part::Sampling) {
                Some((_, known)) if *known == PartState::Active => *known = state,
                Some(_) => {}
                None => parts.insert(0, (Part::Sampling, state)),
            }
        }
        let own = OwnCost::read(&context.identity.proc_root);
        let own = own.inspect_err(|error| tracing::warn!(%error, "the daemon's own cost is not known"));
        let sampling = engine.as_ref().ok().map(convert::sampling);
        let memory_profile = match (&engine, context.memory.get()) {
            (Ok(engine), Some(memory)) => Some(convert::memory_profile(engine, memory.status())),
            _ => None,
        };
        let mapped_calls = engine.as_ref().ok().map(|engine| convert::mapped_calls(&engine.mapped));
        let engine = engine.unwrap_or_default();
        let budget = context.health.budget.report();
        GetStatusResponse {
            version: context.identity.version.clone(),
            start_time: Some(context.identity.started.into()),
            kernel_release: context.identity.kernel_release.clone(),
            parts: parts
                .into_iter()
                .map(|(part, state)| convert::part(part, state))
                .collect(),
            sampling,
            cost: own.ok().map(|own| {
                let descriptors = Descriptors::read(&context.identity.proc_root);
                convert::cost(own, descriptors, &budget.kernel)
            }),
            budget: budget.caps.map(|caps| convert::budget(&budget, caps)),
            store: Some(convert::store(context.store().status())),
            readings: Some(convert::readings::readings(
                context.readings.series().status(),
                context.readings.tally(),
            )),
            watched_processes: engine.watched_processes,
            memory_profile,
            mapped_calls,
            api: Some(ApiStatus {
                connections: u32::try_from(peer::open_connections(&context.connections)).unwrap_or(u32::MAX),
                refused_connections: context.refused_connections.load(Ordering::Relaxed),
                refused_watches: context.refused_watches.load(Ordering::Relaxed),
                refused_commands: context.engine.refused(),
            }),
        }
    }

    /// The loop's report, or how it does. On a host without CPU to spare the loop is late long before it is to be given up.
    async fn engine(&self) -> Result<EngineStatus, PartState> {
        let failed = |reason: String| PartState::Failed {
            reason,
            remedy: "look at the log of the daemon, and restart it".to_owned(),
        };
        let answer = self.context.engine.ask(|reply| Command::Status { reply });
        match tokio::time::timeout(LOOP_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| failed(error.to_string())),
            Err(_elapsed) => {
                let late = self.context.health.since_turn();
                let reason = format!("the sampling loop is {} s late", late.as_secs());
                Err(if late < HANGS_AFTER {
                    PartState::Late {
                        reason,
                        remedy:
                            "give the daemon more CPU: samples wait in the kernel, and are lost when its rings are full"
                                .to_owned(),
                    }
                } else {
                    failed(reason)
                })
            }
        }
    }
}

#[tonic::async_trait]
impl StatusService for Reports {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        Ok(Response::new(self.status().await))
    }

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let shown = &self.context.identity.configuration;
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Response::new(GetConfigResponse {
            toml: shown.toml,
            files: shown.files.iter().map(|path| path.display().to_string()).collect(),
        }))
    }
}

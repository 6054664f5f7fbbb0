//! Answers queries for profiles.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{
    Measure, PageKind, PageQuality, Profile,
    render::{RenderError, pprof},
};
use profiler_proto::v1::{
    CompareProfilesRequest, CompareProfilesResponse, ProfileSelector, ProfileView, QueryPprofRequest,
    QueryPprofResponse, QueryProfileRequest, QueryProfileResponse, SampleKind, profile_service_server::ProfileService,
};
use profiler_store::{Found, GrowthQuery, Target};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, access::Role, convert, peer, status::ApiError},
    command::{Command, FlushError, ProcessError, ProcessSummary, WatchState},
    health::{Part, PartState},
    kernel::records::Pid,
    processes::uptime,
};

/// What was sampled of the profiles that are kept as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Time on a CPU.
    Cpu,
    /// Calls for memory.
    Mapped,
}

impl Source {
    /// What a selector is about, and the selector as it is then read.
    fn of(selector: Option<ProfileSelector>) -> (Self, Option<ProfileSelector>) {
        match convert::is_mapped(selector.as_ref()) {
            true => (Self::Mapped, as_cpu(selector)),
            false => (Self::Cpu, selector),
        }
    }
}

/// Largest answer. A client must allow as much; the default of most is 4 MiB.
pub(in crate::api) const MAX_RESPONSE_BYTES: usize = 128 << 20;

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Profiles {
    pub(in crate::api) context: Arc<Context>,
}

impl Profiles {
    /// Answers with what `encode` makes of the merged profile.
    async fn query<T: Send + 'static>(
        &self,
        source: Source,
        selector: Option<ProfileSelector>,
        view: Option<ProfileView>,
        encode: impl FnOnce(Profile) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let query = convert::query(selector, SystemTime::now())?;
        let view = convert::view(view);
        let not_sampling = self.up_to_now(query.recent).await?;
        let permit = self.permit().await?;
        let selection = {
            let mut store = match source {
                Source::Cpu => self.context.store(),
                Source::Mapped => self.context.mapped(),
            };
            store.expire(uptime());
            store.select(query.target.clone(), query.span)
        };
        // The permit goes with the work: a client that leaves does not end it.
        let (mut answer, permit) = blocking(move || Ok((selection.merge()?, permit))).await?;
        if source == Source::Mapped {
            answer.profile.period = Duration::ZERO;
            answer.profile.quality.pages = Some(of_calls(&answer.profile));
        }
        if answer.found != Found::Samples {
            if let Some(error) = not_sampling {
                return Err(error.into());
            }
            self.explain_nothing(&query.target, answer.found).await?;
        }
        blocking(move || {
            let encoded = encode(answer.profile.view(view));
            drop(permit);
            encoded
        })
        .await
    }

    /// Answers with what `encode` makes of the growth of memory, and of what was touched.
    async fn query_memory<T: Send + 'static>(
        &self,
        selector: Option<ProfileSelector>,
        view: Option<ProfileView>,
        kind: PageKind,
        encode: impl FnOnce(Profile, Profile) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let query = convert::query(as_cpu(selector), SystemTime::now())?;
        let view = convert::view(view);
        let not_sampling = self.up_to_now(query.recent).await?;
        let not_recorded = self.why_no_memory();
        let Some(memory) = self.context.memory.get() else {
            let reason = not_sampling.map_or_else(|| "nothing is sampled".to_owned(), |error| error.to_string());
            return Err(ApiError::NoMemoryProfile {
                reason: not_recorded.unwrap_or(reason),
            });
        };
        let asked = GrowthQuery {
            target: query.target.clone(),
            span: query.span,
            kind,
        };
        let answer = memory.query(asked).await?;
        // Only now: a question that waits for long keeps none of those out that ask for other things.
        let permit = self.permit().await?;
        if answer.found != Found::Samples {
            if let Some(reason) = not_recorded {
                return Err(ApiError::NoMemoryProfile { reason });
            }
            self.explain_nothing(&query.target, answer.found).await?;
        }
        blocking(move || {
            let encoded = encode(answer.growth.view(view), answer.first_touch.view(view));
            drop(permit);
            encoded
        })
        .await
    }

    /// Why page faults are not taken; `None` if they are, or would be if anything were watched.
    fn why_no_memory(&self) -> Option<String> {
        match self.context.health.state(Part::MemoryProfile)? {
            PartState::Unsupported { reason, .. } | PartState::Failed { reason, .. } => Some(reason),
            PartState::Active | PartState::Late { .. } | PartState::Disabled { .. } => None,
        }
    }

    /// Has what was sampled until now put into the store, if it is asked for. Gives the reason if nothing is sampled: what was
    /// sampled before is still worth an answer.
    pub(super) async fn up_to_now(&self, is_recent: bool) -> Result<Option<FlushError>, ApiError> {
        if !is_recent {
            return Ok(None);
        }
        match self.context.flush.up_to_now(&self.context.engine).await {
            Err(ApiError::Flush(error @ FlushError::NotSampling { .. })) => Ok(Some(error)),
            other => other.map(|()| None),
        }
    }

    /// The place of one query among those that may run at one time.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.context.queries).acquire_owned().await;
        permit.map_err(|error| ApiError::Internal {
            what: error.to_string(),
        })
    }

    /// An empty profile is an answer only for what is watched, or was: anything else is told.
    pub(super) async fn explain_nothing(&self, target: &Target, found: Found) -> Result<(), ApiError> {
        match target {
            Target::Everything => Ok(()),
            Target::Process(pid) => {
                let pid = Pid(*pid);
                match self.list(Some(pid)).await {
                    Ok(processes) => match processes.into_iter().find(|process| process.pid == pid) {
                        Some(process) if process.watch_state == WatchState::NotWatched => Err(ApiError::NotWatched {
                            pid,
                            reason: process.watch_reason,
                        }),
                        Some(_) => Ok(()),
                        None => Err(ProcessError::NoSuchProcess { pid }.into()),
                    },
                    // It has exited, and has samples at another time.
                    Err(ApiError::Process(ProcessError::NoSuchProcess { .. })) if found == Found::Empty => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Target::Service(service) => {
                let is_watched = |process: &ProcessSummary| process.service == *service;
                if found == Found::Empty || self.list(None).await?.iter().any(is_watched) {
                    Ok(())
                } else {
                    Err(ApiError::NoSuchService {
                        service: service.to_string(),
                    })
                }
            }
        }
    }

    async fn list(&self, pid: Option<Pid>) -> Result<Vec<ProcessSummary>, ApiError> {
        Ok(self
            .context
            .engine
            .ask(|reply| Command::ListProcesses { pid, reply })
            .await??)
    }
}

/// The rest of a selector is as for CPU time.
fn as_cpu(selector: Option<ProfileSelector>) -> Option<ProfileSelector> {
    selector.map(|selector| ProfileSelector {
        kind: SampleKind::Cpu.into(),
        ..selector
    })
}

/// What a profile of calls for memory is of.
fn of_calls(profile: &Profile) -> PageQuality {
    PageQuality {
        measure: Measure::Mapped,
        first_touch: profile.samples(),
        pages: profile.quality.samples,
        ..PageQuality::default()
    }
}

/// Runs what keeps a CPU busy apart from the tasks that serve connections.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let finished = tokio::task::spawn_blocking(work).await;
    finished.map_err(|error| ApiError::Internal {
        what: error.to_string(),
    })?
}

fn encode_tree(profile: Profile) -> Result<QueryProfileResponse, ApiError> {
    let response = QueryProfileResponse {
        profile: Some(convert::profile(&profile)),
    };
    check_size(response.encoded_len())?;
    Ok(response)
}

fn encode_memory_pprof(growth: Profile, first_touch: Profile) -> Result<QueryPprofResponse, ApiError> {
    let mut bytes = Vec::new();
    match pprof::write_memory(&growth, &first_touch, &mut bytes) {
        Err(RenderError::NoSamples) => return Err(ApiError::NoSamples),
        other => other?,
    }
    let response = QueryPprofResponse {
        pprof: bytes,
        quality: Some(convert::quality(&growth.quality)),
        samples: growth.quality.samples,
    };
    check_size(response.encoded_len())?;
    Ok(response)
}

fn encode_pprof(profile: Profile) -> Result<QueryPprofResponse, ApiError> {
    let mut bytes = Vec::new();
    match pprof::write(&profile, &mut bytes) {
        Err(RenderError::NoSamples) => return Err(ApiError::NoSamples),
        other => other?,
    }
    let response = QueryPprofResponse {
        pprof: bytes,
        quality: Some(convert::quality(&profile.quality)),
        samples: match profile.measure().is_bytes() {
            true => profile.quality.samples,
            false => profile.samples(),
        },
    };
    check_size(response.encoded_len())?;
    Ok(response)
}

pub(super) fn check_size(bytes: usize) -> Result<(), ApiError> {
    if bytes > MAX_RESPONSE_BYTES {
        return Err(ApiError::TooLarge {
            bytes,
            limit: MAX_RESPONSE_BYTES,
        });
    }
    Ok(())
}

#[tonic::async_trait]
impl ProfileService for Profiles {
    async fn query_profile(
        &self,
        request: Request<QueryProfileRequest>,
    ) -> Result<Response<QueryProfileResponse>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        let QueryProfileRequest { selector, view } = request.into_inner();
        if let Some((kind, measure)) = convert::memory_kind(selector.as_ref()) {
            let encode = move |growth, first_touch| {
                encode_tree(if measure == Measure::Growth {
                    growth
                } else {
                    first_touch
                })
            };
            return Ok(Response::new(self.query_memory(selector, view, kind, encode).await?));
        }
        let (source, selector) = Source::of(selector);
        Ok(Response::new(self.query(source, selector, view, encode_tree).await?))
    }

    async fn query_pprof(&self, request: Request<QueryPprofRequest>) -> Result<Response<QueryPprofResponse>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        let QueryPprofRequest { selector, view } = request.into_inner();
        if let Some((kind, _)) = convert::memory_kind(selector.as_ref()) {
            return Ok(Response::new(
                self.query_memory(selector, view, kind, encode_memory_pprof).await?,
            ));
        }
        let (source, selector) = Source::of(selector);
        Ok(Response::new(self.query(source, selector, view, encode_pprof).await?))
    }

    async fn compare_profiles(
        &self,
        request: Request<CompareProfilesRequest>,
    ) -> Result<Response<CompareProfilesResponse>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        Ok(Response::new(self.compare(request.into_inner()).await?))
    }
}

//! Answers about what the memory of processes holds.

use std::sync::Arc;

use profiler_proto::v1::{CensusRequest, CensusResponse, memory_service_server::MemoryService};
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, access::Role, convert, peer, status::ApiError},
    census::Options,
};

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Memory {
    pub(in crate::api) context: Arc<Context>,
}

#[tonic::async_trait]
impl MemoryService for Memory {
    async fn census(&self, request: Request<CensusRequest>) -> Result<Response<CensusResponse>, Status> {
        peer::require(&request, Role::Profile).map_err(ApiError::from)?;
        let CensusRequest {
            pid,
            compare,
            holders,
            most_types,
        } = request.into_inner();
        let pid = convert::pid(pid).map_err(ApiError::from)?;
        let options = Options {
            compare,
            holders: compare && holders,
        };
        // Dropped with the request, which ends the census.
        let taken = self.context.census.take(pid, options).await.map_err(ApiError::from)?;
        let most = match most_types {
            0 => usize::MAX,
            most => most as usize,
        };
        Ok(Response::new(convert::census::census(&taken, most)))
    }
}

//! Answers with verdicts on memory.

use std::sync::Arc;

use profiler_proto::v1::{ListGrowthRequest, ListGrowthResponse, growth_service_server::GrowthService};
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, access::Role, convert, peer, status::ApiError},
    readings::Board,
};

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Growth {
    pub(in crate::api) context: Arc<Context>,
}

#[tonic::async_trait]
impl GrowthService for Growth {
    async fn list_growth(&self, request: Request<ListGrowthRequest>) -> Result<Response<ListGrowthResponse>, Status> {
        peer::require(&request, Role::Read).map_err(ApiError::from)?;
        let reports = self.context.readings.growth();
        Ok(Response::new(ListGrowthResponse {
            time: Some(Board::now().wall.into()),
            growth: convert::growth::growth(request.get_ref(), &reports),
        }))
    }
}

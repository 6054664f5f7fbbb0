//! The double's answers about memory.

use profiler_proto::v1::{
    CensusRequest, CensusResponse, ListGrowthRequest, ListGrowthResponse, growth_service_server::GrowthService,
    memory_service_server::MemoryService,
};
use tonic::{Request, Response, Status};

use super::Service;

#[tonic::async_trait]
impl MemoryService for Service {
    async fn census(&self, request: Request<CensusRequest>) -> Result<Response<CensusResponse>, Status> {
        self.0.seen().censuses.push(request.into_inner());
        self.0.answer(&self.0.script.census).await
    }
}

#[tonic::async_trait]
impl GrowthService for Service {
    async fn list_growth(&self, request: Request<ListGrowthRequest>) -> Result<Response<ListGrowthResponse>, Status> {
        self.0.seen().growths.push(request.into_inner());
        self.0.answer(&self.0.script.growth).await
    }
}

//! Calls about memory that grows.

use profiler_proto::v1::{ListGrowthRequest, MemoryGrowth, growth_service_client::GrowthServiceClient};

use super::{Client, ClientError, MAX_MESSAGE_BYTES};

impl Client {
    /// Verdicts on the memory of services and processes.
    pub(crate) async fn list_growth(&self, request: ListGrowthRequest) -> Result<Vec<MemoryGrowth>, ClientError> {
        let mut client = GrowthServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let response = self.call(client.list_growth(request)).await?;
        Ok(response.growth)
    }
}

//! Calls about what the memory of processes holds.

use profiler_proto::v1::{CensusRequest, CensusResponse, memory_service_client::MemoryServiceClient};

use super::{Client, ClientError, MAX_MESSAGE_BYTES};

impl Client {
    /// Has the objects of a process counted.
    pub(crate) async fn census(&self, request: CensusRequest) -> Result<CensusResponse, ClientError> {
        let mut client = MemoryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        self.call(client.census(request)).await
    }
}

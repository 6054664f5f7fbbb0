//! Lists processes.

use std::sync::Arc;

use profiler_proto::v1::{ListProcessesRequest, ListProcessesResponse, process_service_server::ProcessService};
use tonic::{Request, Response, Status};

use crate::{
    api::{Context, access::Role, convert, peer, status::ApiError},
    command::Command,
};

/// The service.
#[derive(Debug)]
pub(in crate::api) struct Processes {
    pub(in crate::api) context: Arc<Context>,
}

impl Processes {
    async fn list(&self, request: Request<ListProcessesRequest>) -> Result<ListProcessesResponse, ApiError> {
        let peer = peer::require(&request, Role::Read)?;
        let pid = request.get_ref().pid.map(convert::pid).transpose()?;
        let found = self
            .context
            .engine
            .ask(|reply| Command::ListProcesses { pid, reply })
            .await??;
        let with_command_line = peer.has(Role::Profile);
        let processes = found
            .into_iter()
            .map(|process| convert::process(process, with_command_line))
            .collect();
        Ok(ListProcessesResponse { processes })
    }
}

#[tonic::async_trait]
impl ProcessService for Processes {
    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        Ok(Response::new(self.list(request).await?))
    }
}

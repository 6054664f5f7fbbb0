//! Whose profile it is: one process, or the processes of a service.

use std::{collections::BTreeSet, fmt};

use profiler_proto::v1::{Process, WatchState, profile_selector};

use crate::{
    args::TargetArgs,
    client::{Client, ClientError},
    error::CliError,
    output::{file_stem, printable},
};

/// Most bytes shown of a name.
const MAX_NAME_BYTES: usize = 80;
/// Services named when another was asked for.
const MAX_SERVICES: usize = 10;

/// Whose profile it is.
#[derive(Debug)]
pub(super) struct Target {
    name: Name,
    /// What the daemon says of its processes; empty if they are gone.
    pub(super) processes: Vec<Process>,
}

#[derive(Debug)]
enum Name {
    Process { pid: u32 },
    Service { service: String },
}

impl Target {
    /// Looks the target up. It must exist if it is to be recorded; of the past, it may have gone.
    pub(super) async fn find(client: &Client, args: &TargetArgs, must_exist: bool) -> Result<Self, CliError> {
        if let Some(pid) = args.pid {
            let processes = match client.list_processes(Some(pid)).await {
                Err(ClientError::NotFound { .. }) if !must_exist => Vec::new(),
                result => result?,
            };
            return Ok(Self {
                name: Name::Process { pid },
                processes,
            });
        }
        let service = args.service.clone().unwrap_or_default();
        let watched = client.list_processes(None).await?;
        let (processes, others): (Vec<_>, Vec<_>) = watched.into_iter().partition(|process| process.service == service);
        if processes.is_empty() && must_exist {
            return Err(CliError::NoSuchService {
                service,
                known: known(&others),
            });
        }
        Ok(Self {
            name: Name::Service { service },
            processes,
        })
    }

    /// The target of a query.
    pub(super) fn selector(&self) -> profile_selector::Target {
        match &self.name {
            Name::Process { pid } => profile_selector::Target::Pid(*pid),
            Name::Service { service } => profile_selector::Target::Service(service.clone()),
        }
    }

    /// The process to be watched; none if it is a service, whose processes are watched already.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.name {
            Name::Process { pid } => Some(pid),
            Name::Service { .. } => None,
        }
    }

    /// Why it is not watched, if it is one process that is there and is not.
    pub(super) fn not_watched(&self) -> Option<&str> {
        let process = self.processes.first().filter(|_| self.pid().is_some())?;
        (process.watch_state() == WatchState::NotWatched).then_some(&process.watch_reason)
    }

    /// The name for a file of its profile. `sampled` is the process's name at the time of the samples.
    pub(super) fn file_stem(&self, sampled: Option<&str>) -> String {
        match &self.name {
            Name::Service { service } => file_stem(service, None),
            Name::Process { pid } => file_stem(sampled.or(self.process_name()).unwrap_or("process"), Some(*pid)),
        }
    }

    fn process_name(&self) -> Option<&str> {
        self.processes
            .first()
            .map(|process| process.name.as_str())
            .filter(|name| !name.is_empty())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.process_name()) {
            (Name::Process { pid }, None) => write!(out, "process {pid}"),
            (Name::Process { pid }, Some(name)) => write!(out, "process {pid} ({})", printable(name, MAX_NAME_BYTES)),
            (Name::Service { service }, _) => write!(out, "service {}", printable(service, MAX_NAME_BYTES)),
        }
    }
}

/// The services there are, as a clause.
fn known(processes: &[Process]) -> String {
    let services: BTreeSet<&str> = processes
        .iter()
        .map(|process| process.service.as_str())
        .filter(|service| !service.is_empty())
        .collect();
    if services.is_empty() {
        return "no service is watched".to_owned();
    }
    let named: Vec<&str> = services.iter().copied().take(MAX_SERVICES).collect();
    let more = if services.len() > MAX_SERVICES {
        ", and more, in `profiler-cli ps`"
    } else {
        ""
    };
    format!("there are {}{more}", named.join(", "))
}

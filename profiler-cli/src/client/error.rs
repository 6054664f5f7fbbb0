//! Every way in which asking the daemon can fail, in the user's words.

use std::{
    error::Error as _,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{Code, Status};

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no socket.
    #[error(
        "the profiler daemon is not running: there is no socket {}; start it with `systemctl start profiler-daemon` \
         or `sudo profiler-daemon`",
        socket.display()
    )]
    SocketMissing {
        /// Where it should be.
        socket: PathBuf,
    },
    /// Nobody listens on the socket.
    #[error(
        "the profiler daemon is not running: nobody listens on {}; start it with `systemctl start profiler-daemon` \
         or `sudo profiler-daemon`",
        socket.display()
    )]
    NobodyListens {
        /// The socket.
        socket: PathBuf,
    },
    /// The caller may not use the socket.
    #[error("permission denied on {}: {remedy}", socket.display())]
    SocketForbidden {
        /// The socket.
        socket: PathBuf,
        /// Who may use it, and how to become one of them.
        remedy: String,
    },
    /// The path cannot be one of a socket.
    #[error("{} cannot be the path of a socket: {source}", socket.display())]
    SocketPath {
        /// The path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be connected for another reason.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There can be no daemon at the address.
    #[error("{address:?} is no address of a daemon: {problem}; one is like https://profiler.example:9898")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody that we trust answers at the address.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// A file of what we show or trust cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    CredentialFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What we should show or trust is of no use.
    #[error("cannot use what was given for the connection: {reason}")]
    Credentials {
        /// Why.
        reason: String,
    },
    /// The connection broke, or what answers does not speak gRPC.
    #[error("the connection to the daemon was lost: {reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("the daemon did not answer within {} s; --timeout gives it longer", after.as_secs_f64())]
    Timeout {
        /// How long it was waited.
        after: Duration,
    },
    /// The caller lacks the role.
    #[error("not allowed: {message}")]
    NotAllowed {
        /// The daemon's words.
        message: String,
    },
    /// The daemon cannot do it on this host, or not now.
    #[error("the daemon cannot do this now: {message}")]
    Unavailable {
        /// The daemon's words.
        message: String,
    },
    /// The daemon does not know the call.
    #[error("the daemon does not know this request; is it of another version? ({message})")]
    Unimplemented {
        /// The daemon's words.
        message: String,
    },
    /// What was asked for does not exist.
    #[error("{message}")]
    NotFound {
        /// The daemon's words.
        message: String,
    },
    /// Any other refusal.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: Code,
        /// The daemon's words.
        message: String,
    },
}

/// What a gRPC status means to the user.
pub(crate) fn refusal(status: &Status) -> ClientError {
    // A status with a source was made on this side, out of a failure of the transport.
    if let Some(source) = status.source() {
        return ClientError::Lost {
            reason: innermost(source),
        };
    }
    let message = if status.message().is_empty() {
        format!("the daemon refused ({})", status.code())
    } else {
        status.message().to_owned()
    };
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => ClientError::NotAllowed { message },
        Code::Unavailable => ClientError::Unavailable { message },
        Code::Unimplemented => ClientError::Unimplemented { message },
        Code::NotFound => ClientError::NotFound { message },
        code => ClientError::Refused { code, message },
    }
}

/// The words of the first cause, which says most.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

pub(super) fn classify_connect(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ClientError::SocketMissing { socket },
        io::ErrorKind::ConnectionRefused => ClientError::NobodyListens { socket },
        io::ErrorKind::PermissionDenied => {
            let remedy = remedy_for(socket_group(&socket).as_deref());
            ClientError::SocketForbidden { socket, remedy }
        }
        // Too long for an address, or with a zero byte.
        io::ErrorKind::InvalidInput => ClientError::SocketPath { socket, source },
        _ => ClientError::Connect { socket, source },
    }
}

/// The group that may use the socket; none if only root may.
fn socket_group(socket: &Path) -> Option<String> {
    // Where the directory cannot be entered, its own group is the one that can.
    let metadata = fs::metadata(socket)
        .or_else(|error| socket.parent().map_or(Err(error), fs::metadata))
        .ok()?;
    let group_id = metadata.gid();
    if group_id == 0 {
        return None;
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    Some(group_name(&groups, group_id).unwrap_or_else(|| group_id.to_string()))
}

/// The name of a group in the text of `/etc/group`.
fn group_name(groups: &str, group_id: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(group_id)).then(|| name.to_owned())
    })
}

fn remedy_for(group: Option<&str>) -> String {
    match group {
        None => "only root may use it; use sudo".to_owned(),
        Some(group) => format!(
            "it is for root and the group `{group}`; use sudo, or join the group with `sudo usermod -aG {group} \
             \"$USER\"` and log in anew"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_number() {
        let groups = "root:x:0:\nbroken\nprofiler:x:998:alice,bob\n";
        assert_eq!(group_name(groups, 998).as_deref(), Some("profiler"));
        assert_eq!(group_name(groups, 7), None);
        assert!(remedy_for(Some("profiler")).contains("usermod -aG profiler"));
        assert!(remedy_for(None).contains("sudo"));
    }

    #[test]
    fn statuses_become_refusals() {
        assert!(matches!(
            refusal(&Status::permission_denied("no")),
            ClientError::NotAllowed { .. }
        ));
        assert!(matches!(
            refusal(&Status::unavailable("no BTF")),
            ClientError::Unavailable { .. }
        ));
        assert!(matches!(
            refusal(&Status::not_found("gone")),
            ClientError::NotFound { .. }
        ));
        let broken = Status::from_error(Box::new(io::Error::other("reset")));
        assert!(matches!(refusal(&broken), ClientError::Lost { reason } if reason == "reset"));
        let silent = refusal(&Status::internal(""));
        assert!(silent.to_string().starts_with("the daemon refused"), "{silent}");
    }
}

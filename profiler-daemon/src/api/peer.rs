//! Connections, each with who is at its other end.
//!
//! In: accepted sockets. Out: streams that carry the peer's roles to every request, in bounded number.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tonic::{Request, transport::server::Connected};

use super::{
    access::{Access, AccessDenied, Credentials, Role, Roles},
    count,
};
use crate::kernel::peer_groups;

/// Connections open at one time.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Of those, kept for root and the daemon's own user, so that others cannot lock them out.
const RESERVED_CONNECTIONS: usize = 8;
/// How long to leave it when no connection can be accepted, as when all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: u32,
    roles: Roles,
    access: Arc<Access>,
}

impl Peer {
    /// Whether the peer has a role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.has(role)
    }
}

/// The peer of a request, if it has the role.
pub(super) fn require<T>(request: &Request<T>, role: Role) -> Result<Peer, AccessDenied> {
    match request.extensions().get::<Peer>() {
        Some(peer) if peer.has(role) => Ok(peer.clone()),
        Some(peer) => Err(peer.access.denial(peer.uid, role)),
        // No connection is served without a peer; if one were, it would have no roles.
        None => Err(AccessDenied::OnlyRoot { uid: u32::MAX, role }),
    }
}

/// Lets connections in.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) access: Arc<Access>,
    pub(super) context: Arc<super::Context>,
}

impl Gate {
    /// Accepts connections until nobody takes them any more.
    pub(super) async fn accept(self, listener: UnixListener, admitted: mpsc::Sender<io::Result<PeerStream>>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = admitted.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Some(stream) = self.admit(stream)
                        && admitted.send(Ok(stream)).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) -> Option<PeerStream> {
        let credentials = match credentials(&stream) {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "the kernel does not say who connects");
                return None;
            }
        };
        let uid = credentials.uid;
        let connections = &self.context.connections;
        let has_room = self.access.is_trusted(uid) || connections.available_permits() > RESERVED_CONNECTIONS;
        let permit = has_room
            .then(|| Arc::clone(connections).try_acquire_owned().ok())
            .flatten();
        let Some(permit) = permit else {
            count(&self.context.refused_connections);
            tracing::debug!(uid, "too many connections");
            return None;
        };
        let roles = self.access.roles(&credentials);
        let peer = Peer {
            uid,
            roles,
            access: Arc::clone(&self.access),
        };
        Some(PeerStream {
            stream,
            peer,
            _permit: permit,
        })
    }
}

/// Number of connections that are open.
pub(super) fn open_connections(connections: &Semaphore) -> usize {
    MAX_CONNECTIONS.saturating_sub(connections.available_permits())
}

fn credentials(stream: &UnixStream) -> io::Result<Credentials> {
    let peer = stream.peer_cred()?;
    let groups = peer_groups(stream.as_fd())?;
    Ok(Credentials {
        uid: peer.uid(),
        gid: peer.gid(),
        groups,
    })
}

/// A connection with its peer.
#[derive(Debug)]
pub(super) struct PeerStream {
    stream: UnixStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

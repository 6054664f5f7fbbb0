//! Connections, each with who is at its other end.
//!
//! In: accepted sockets. Out: streams that carry the peer's roles to every request, in bounded number.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Sleep,
};
use tonic::{Request, Status, transport::server::Connected};

use super::{
    access::{Access, AccessDenied, Credentials, Role, Roles},
    count,
};
use crate::kernel::peer_groups;

/// Connections open at one time.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Of those, kept for root and the daemon's own user, so that others cannot lock them out.
const RESERVED_CONNECTIONS: usize = 8;
/// Connections of one user who is neither, so that no member of a group locks out the others.
const MAX_CONNECTIONS_PER_USER: usize = 24;
/// How long a connection may take until its first request: one that says nothing keeps a place from those who do.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long to leave it when no connection can be accepted, as when all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: u32,
    roles: Roles,
    /// Who has which roles; none over TCP, where all who are let in have the same.
    access: Option<Arc<Access>>,
    has_asked: Arc<AtomicBool>,
}

impl Peer {
    /// Somebody of whom nothing is known, and who may do nothing.
    pub(super) fn stranger() -> Self {
        Self {
            uid: u32::MAX,
            roles: Roles::default(),
            access: None,
            has_asked: Arc::default(),
        }
    }

    /// The same with the roles of those who may come in where it did, on a connection that is in use.
    pub(super) fn let_in(self, roles: Roles) -> Self {
        self.has_asked.store(true, Ordering::Relaxed);
        Self { roles, ..self }
    }

    /// Whether the peer has a role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.has(role)
    }

    /// That it has a role.
    pub(super) fn require(&self, role: Role) -> Result<(), AccessDenied> {
        match self.has(role) {
            true => Ok(()),
            false => Err(self.denial(role)),
        }
    }

    /// Who it is, for what is kept of what it did.
    pub(super) fn who(&self) -> String {
        match self.access {
            Some(_) => format!("uid {}", self.uid),
            None => "a caller of the TCP port".to_owned(),
        }
    }

    fn denial(&self, role: Role) -> AccessDenied {
        match &self.access {
            Some(access) => access.denial(self.uid, role),
            None => AccessDenied::OverTcp { role },
        }
    }
}

/// The peer of a request, if it has the role.
pub(super) fn require<T>(request: &Request<T>, role: Role) -> Result<Peer, AccessDenied> {
    match request.extensions().get::<Peer>() {
        Some(peer) if peer.has(role) => Ok(peer.clone()),
        Some(peer) => Err(peer.denial(role)),
        // No connection is served without a peer; if one were, it would have no roles.
        None => Err(AccessDenied::OnlyRoot { uid: u32::MAX, role }),
    }
}

/// Notes of every request, whatever it is about, that its connection is in use.
pub(super) fn note_request(request: Request<()>) -> Result<Request<()>, Status> {
    // A stranger has to show a token first.
    let peer = request.extensions().get::<Peer>();
    if let Some(peer) = peer.filter(|peer| peer.access.is_some()) {
        peer.has_asked.store(true, Ordering::Relaxed);
    }
    Ok(request)
}

/// How many connections each user has open.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<u32, usize>>);

/// A connection of a user, counted until this is dropped.
#[derive(Debug)]
struct UserPlace {
    uid: u32,
    users: Arc<Users>,
}

impl Users {
    /// One more connection of a user, unless there are `most`.
    fn place(self: &Arc<Self>, uid: u32, most: usize) -> Option<UserPlace> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = open.get(&uid).copied().unwrap_or_default();
        if connections >= most {
            return None;
        }
        open.insert(uid, connections + 1);
        Some(UserPlace {
            uid,
            users: Arc::clone(self),
        })
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut open = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(connections) if *connections > 1 => *connections -= 1,
            _ => {
                open.remove(&self.uid);
            }
        }
    }
}

/// Lets connections in.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) access: Arc<Access>,
    pub(super) context: Arc<super::Context>,
    pub(super) users: Arc<Users>,
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
        let (reserved, most) = if self.access.is_trusted(uid) {
            (0, MAX_CONNECTIONS)
        } else {
            (RESERVED_CONNECTIONS, MAX_CONNECTIONS_PER_USER)
        };
        let place = (connections.available_permits() > reserved)
            .then(|| {
                Some((
                    Arc::clone(connections).try_acquire_owned().ok()?,
                    self.users.place(uid, most)?,
                ))
            })
            .flatten();
        let Some((permit, user_place)) = place else {
            count(&self.context.refused_connections);
            tracing::debug!(uid, "too many connections");
            return None;
        };
        let roles = self.access.roles(&credentials);
        let peer = Peer {
            uid,
            roles,
            access: Some(Arc::clone(&self.access)),
            has_asked: Arc::default(),
        };
        Some(PeerStream {
            stream,
            peer,
            patience: Some(Box::pin(tokio::time::sleep(FIRST_REQUEST_WITHIN))),
            _permit: permit,
            _user_place: Some(user_place),
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
pub(super) struct PeerStream<S = UnixStream> {
    stream: S,
    peer: Peer,
    /// Until the first request: when it is due.
    patience: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _user_place: Option<UserPlace>,
}

impl<S> PeerStream<S> {
    /// A connection of which nothing is known.
    pub(super) fn stranger(stream: S, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            peer: Peer::stranger(),
            patience: Some(Box::pin(tokio::time::sleep(FIRST_REQUEST_WITHIN))),
            _permit: permit,
            _user_place: None,
        }
    }

    /// Whether the first request is overdue. Until it comes, the task is woken when it is.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.peer.has_asked.load(Ordering::Relaxed) {
            self.patience = None;
        }
        match &mut self.patience {
            Some(due) => due.as_mut().poll(cx).is_ready(),
            None => false,
        }
    }
}

impl<S> Connected for PeerStream<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    // One that reads no refusals is not read from either, so that its patience would never be looked at.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_own_bounds() {
        let users = Arc::new(Users::default());
        let first: Vec<_> = (0..2).map(|_| users.place(7, 2).unwrap()).collect();
        assert!(users.place(7, 2).is_none());
        let other = users.place(8, 2).unwrap();
        drop(first);
        assert!(users.place(7, 1).is_some());
        drop(other);
        assert!(users.0.lock().unwrap().is_empty(), "nothing is kept of those who left");
    }
}

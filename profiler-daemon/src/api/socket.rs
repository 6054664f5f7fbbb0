//! The unix socket: binds it so that nobody can connect before its mode and group are right, and so that two daemons
//! never share it.
//!
//! A lock file beside the socket tells a live daemon from a dead one without a race; it stays behind, empty. The socket
//! is made in a directory of its own that only we may enter, and takes its place by one rename. A socket that the service
//! manager passes is its own affair: it is only checked.

use std::{
    fs::DirBuilder,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// The socket's name in the directory that it is made in.
const NEW_NAME: &str = "s";

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon serves there.
    #[error("{}: {} already serves on this socket", path.display(), process(*pid))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other daemon, if the kernel says.
        pid: Option<i32>,
    },
    /// There is something else than a socket.
    #[error("{}: is not a socket, and is left alone", path.display())]
    NotASocket {
        /// What it is called.
        path: PathBuf,
    },
    /// The path names no file in a directory.
    #[error("{}: names no file", path.display())]
    NoName {
        /// As it was given.
        path: PathBuf,
    },
    /// The service manager passed something else than one unix socket that listens.
    #[error("the service manager passed {what}; one unix stream socket that listens is expected")]
    Passed {
        /// What it passed.
        what: String,
    },
    /// The system refused.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn process(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A socket that listens. One that was bound here is removed when this is dropped; one that was passed stays.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    listener: UnixListener,
    place: Option<Place>,
}

impl BoundSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, and what keeps its place if it was bound here.
    pub(super) fn into_parts(self) -> (UnixListener, Option<Place>) {
        (self.listener, self.place)
    }
}

/// The socket that the service manager passed (sd_listen_fds(3)), if it passed one. To be called once.
pub fn passed() -> Result<Option<BoundSocket>, BindError> {
    let refused = |error: io::Error| BindError::Passed {
        what: error.to_string(),
    };
    match sd_notify::listen_fds().map_err(refused)?.len() {
        0 => return Ok(None),
        1 => {}
        count => {
            return Err(BindError::Passed {
                what: format!("{count} descriptors"),
            });
        }
    }
    let listener = ListenFd::from_env().take_unix_listener(0).map_err(refused)?;
    let Some(listener) = listener else { return Ok(None) };
    accept_passed(listener).map(Some)
}

/// Checks what was passed.
fn accept_passed(listener: UnixListener) -> Result<BoundSocket, BindError> {
    let refused = |error: io::Error| BindError::Passed {
        what: error.to_string(),
    };
    let listens = rustix::net::sockopt::socket_acceptconn(&listener).map_err(|errno| refused(errno.into()))?;
    if !listens {
        return Err(BindError::Passed {
            what: "a socket that does not listen".to_owned(),
        });
    }
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    // Without a name it cannot be found by path, but whoever passed it knows how it is reached.
    let path = address.as_pathname().map(Path::to_path_buf).unwrap_or_default();
    Ok(BoundSocket {
        path,
        listener,
        place: None,
    })
}

/// The socket's place in the file system, held until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    directory: OwnedFd,
    /// Device and inode of the socket.
    identity: (u64, u64),
    _lock: OwnedFd,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(name) = self.path.file_name() else { return };
        // Whoever replaced the socket by force keeps what they made.
        let now = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if now.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity)
            && let Err(error) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}

/// Binds the socket: for its owner alone, or also for a group. Replaces a socket that nobody serves on any more, and
/// makes the directory if it is missing.
pub fn bind(path: &Path, group: Option<u32>) -> Result<BoundSocket, BindError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(BindError::NoName {
            path: path.to_path_buf(),
        });
    };
    let failed = |what| {
        move |source: io::Error| BindError::Io {
            path: path.to_path_buf(),
            what,
            source,
        }
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let make = DirBuilder::new().recursive(true).mode(0o755).create(parent);
    make.map_err(|source| BindError::Io {
        path: parent.to_path_buf(),
        what: "make the directory",
        source,
    })?;
    let directory_flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = rustix::fs::open(parent, directory_flags, Mode::empty())
        .map_err(|errno| failed("open its directory")(errno.into()))?;

    let lock = lock(&directory, path, name.as_bytes())?;
    refuse_live(&directory, path, name.as_bytes())?;

    let listener = listen_and_move(&directory, name.as_bytes(), group).map_err(|(what, errno)| failed(what)(errno))?;
    let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("find what was bound")(errno.into()))?;
    listener
        .set_nonblocking(true)
        .map_err(failed("serve without blocking"))?;
    let place = Place {
        path: path.to_path_buf(),
        directory,
        identity: (stat.st_dev, stat.st_ino),
        _lock: lock,
    };
    Ok(BoundSocket {
        path: path.to_path_buf(),
        listener,
        place: Some(place),
    })
}

/// `.NAME.SUFFIX` in the socket's directory.
fn beside(name: &[u8], suffix: &str) -> Vec<u8> {
    [b".", name, b".", suffix.as_bytes()].concat()
}

fn lock(directory: &OwnedFd, path: &Path, name: &[u8]) -> Result<OwnedFd, BindError> {
    let failed = |what| {
        move |errno: Errno| BindError::Io {
            path: path.to_path_buf(),
            what,
            source: errno.into(),
        }
    };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = rustix::fs::openat(directory, beside(name, "lock"), flags, Mode::RUSR | Mode::WUSR)
        .map_err(failed("open its lock"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            let pid = connect(directory, name).ok().and_then(|stream| server_pid(&stream));
            Err(BindError::InUse {
                path: path.to_path_buf(),
                pid,
            })
        }
        Err(errno) => Err(failed("lock it")(errno)),
    }
}

/// What may be at the path already: nothing, or a socket that nobody serves on.
fn refuse_live(directory: &OwnedFd, path: &Path, name: &[u8]) -> Result<(), BindError> {
    let failed = |what, errno: Errno| BindError::Io {
        path: path.to_path_buf(),
        what,
        source: errno.into(),
    };
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("find what is there", errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(BindError::NotASocket {
                path: path.to_path_buf(),
            });
        }
        Ok(_) => {}
    }
    match connect(directory, name) {
        Ok(stream) => Err(BindError::InUse {
            path: path.to_path_buf(),
            pid: server_pid(&stream),
        }),
        // Its queue is full: somebody listens, slowly.
        Err(Errno::AGAIN) => Err(BindError::InUse {
            path: path.to_path_buf(),
            pid: None,
        }),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("find out whether it is in use", errno)),
    }
}

/// Connects without ever waiting.
fn connect(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(through(directory, name))?)?;
    Ok(UnixStream::from(socket))
}

fn server_pid(stream: &UnixStream) -> Option<i32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    Some(credentials.pid.as_raw_nonzero().get())
}

/// A path to a file in an open directory that fits into the address of a socket, however deep the directory is.
fn through(directory: &OwnedFd, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat()
}

/// Listens on a new socket, and puts it in its place when it is complete.
fn listen_and_move(
    directory: &OwnedFd,
    name: &[u8],
    group: Option<u32>,
) -> Result<UnixListener, (&'static str, io::Error)> {
    let failed = |what| move |errno: Errno| (what, io::Error::from(errno));
    let workshop_name = beside(name, "new");
    // What a daemon that was killed here left behind; the lock says that it is dead.
    clear_workshop(directory, &workshop_name);
    rustix::fs::mkdirat(directory, &workshop_name, Mode::RWXU).map_err(failed("make a directory beside it"))?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::RDONLY;
    let workshop = rustix::fs::openat(directory, &workshop_name, flags, Mode::empty())
        .map_err(failed("open the directory beside it"))?;
    let made = (|| {
        let new = through(&workshop, NEW_NAME.as_bytes());
        let listener =
            UnixListener::bind(Path::new(std::ffi::OsStr::from_bytes(&new))).map_err(|error| ("bind it", error))?;
        let mode = match group.map(Gid::from_raw) {
            None => Mode::RUSR | Mode::WUSR,
            Some(gid) => match rustix::fs::chownat(&workshop, NEW_NAME, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP,
                Err(error) => {
                    tracing::warn!(%error, gid = gid.as_raw(), "the socket cannot be given to its group: only its owner may use it");
                    Mode::RUSR | Mode::WUSR
                }
            },
        };
        rustix::fs::chmodat(&workshop, NEW_NAME, mode, AtFlags::empty()).map_err(failed("set its mode"))?;
        rustix::fs::renameat(&workshop, NEW_NAME, directory, name).map_err(failed("put it in its place"))?;
        Ok(listener)
    })();
    clear_workshop(directory, &workshop_name);
    made
}

fn clear_workshop(directory: &OwnedFd, workshop_name: &[u8]) {
    let left = [workshop_name, b"/", NEW_NAME.as_bytes()].concat();
    for (path, flags) in [(left.as_slice(), AtFlags::empty()), (workshop_name, AtFlags::REMOVEDIR)] {
        match rustix::fs::unlinkat(directory, path, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => tracing::debug!(%error, "what is left of making the socket cannot be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn makes_its_directory_and_removes_itself() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/profiler/profiler.sock");
        let bound = bind(&path, None).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!((mode(&path), mode(path.parent().unwrap()) & 0o022), (0o600, 0));
        let names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert!(!path.exists());
        assert!(bind(&path, None).is_ok());
    }

    #[test]
    fn belongs_to_its_group() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        let group = rustix::process::getegid().as_raw();
        let _bound = bind(&path, Some(group)).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!((mode(&path), metadata.gid()), (0o660, group));
    }

    #[test]
    fn a_live_daemon_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        let _bound = bind(&path, None).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let error = bind(&path, None).unwrap_err();
        assert!(
            matches!(error, BindError::InUse { pid: Some(pid), .. } if pid == own),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .ends_with(&format!("process {own} already serves on this socket")),
            "{error}"
        );
        // One that takes no lock.
        let other = root.path().join("other.sock");
        let _listener = UnixListener::bind(&other).unwrap();
        assert!(matches!(bind(&other, None), Err(BindError::InUse { pid: Some(pid), .. }) if pid == own));
        assert!(UnixStream::connect(&other).is_ok(), "the live socket was left alone");
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        // A daemon killed while it bound leaves its workshop.
        fs::create_dir(root.path().join(".s.sock.new")).unwrap();
        drop(UnixListener::bind(root.path().join(".s.sock.new/s")).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let _bound = bind(&path, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, None), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = root.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link, None), Err(BindError::NotASocket { .. })));
    }

    #[test]
    fn the_longest_path_can_be_bound() {
        let root = tempfile::tempdir().unwrap();
        let length = root.path().as_os_str().len() + 1;
        let path = root.path().join("x".repeat(107 - length));
        let _bound = bind(&path, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_put_there_by_someone_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        let bound = bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_was_passed_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s.sock");
        let bound = accept_passed(UnixListener::bind(&path).unwrap()).unwrap();
        assert_eq!(bound.path(), path);
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_passed_socket_must_listen() {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let error = accept_passed(UnixListener::from(socket)).unwrap_err();
        assert!(error.to_string().contains("a socket that does not listen"), "{error}");
    }
}

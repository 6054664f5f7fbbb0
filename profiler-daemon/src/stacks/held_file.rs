//! A file of a process that is held open, and closed where nobody waits for it.
//!
//! Closing a file of a file system that asks somebody else (FUSE, NFS) asks it once more, and no signal ends the wait for
//! the answer. The last to let go of a file may be the sampling loop.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Files that wait to be closed. Those beyond it stay open: the file system that does not answer holds them anyway.
const MAX_WAITING: usize = 1 << 12;
/// How long the one who let go of a file takes to be done with it.
const MOMENT: Duration = Duration::from_millis(1);

/// An open file.
#[derive(Debug)]
pub enum HeldFile {
    /// Of a file system of this host.
    Local(OwnedFd),
    /// Of one that asks somebody else.
    Remote(Arc<OwnedFd>),
}

impl HeldFile {
    /// Holds a file.
    pub fn new(descriptor: OwnedFd, is_remote: bool) -> Self {
        match is_remote {
            true => Self::Remote(Arc::new(descriptor)),
            false => Self::Local(descriptor),
        }
    }
}

impl AsFd for HeldFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Local(descriptor) => descriptor.as_fd(),
            Self::Remote(descriptor) => descriptor.as_fd(),
        }
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        if let Self::Remote(descriptor) = self {
            let waits = closer().is_some_and(|closer| closer.try_send(Arc::clone(descriptor)).is_ok());
            if !waits {
                // What is counted once more is never closed.
                std::mem::forget(Arc::clone(descriptor));
            }
        }
    }
}

/// The thread that closes files.
fn closer() -> Option<&'static SyncSender<Arc<OwnedFd>>> {
    static CLOSER: OnceLock<Option<SyncSender<Arc<OwnedFd>>>> = OnceLock::new();
    let closer = CLOSER.get_or_init(|| {
        let (sender, files) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new().name("closing".to_owned());
        match thread.spawn(move || close_all(&files)) {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::warn!(%error, "files of remote file systems stay open");
                None
            }
        }
    });
    closer.as_ref()
}

fn close_all(files: &Receiver<Arc<OwnedFd>>) {
    for mut file in files {
        while let Err(shared) = Arc::try_unwrap(file) {
            file = shared;
            std::thread::sleep(MOMENT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn every_file_is_closed_once_it_is_let_go() {
        for is_remote in [false, true] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let file = HeldFile::new(writer.into(), is_remote);
            assert_eq!(rustix::io::write(&file, b"open").unwrap(), 4);
            drop(file);
            // Returns when nobody can write any more.
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!(read, b"open");
        }
    }
}

//! Wakes the sampling loop from other threads.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the sampling loop. Clones wake the same loop.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that nobody waits for yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?)))
    }

    /// Wakes the loop, now or when it waits next.
    pub fn wake(&self) {
        // It fails only when 2^64 wakes wait already.
        if let Err(error) = rustix::io::write(&*self.0, &1_u64.to_ne_bytes()) {
            tracing::trace!(%error, "the sampling loop is awake already");
        }
    }

    /// Forgets the wakes so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // It fails when there are none.
        if let Err(error) = rustix::io::read(&*self.0, &mut count)
            && error != rustix::io::Errno::AGAIN
        {
            tracing::debug!(%error, "the waker cannot be read");
        }
    }
}

impl AsFd for Waker {
    /// Readable while wakes are waiting.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

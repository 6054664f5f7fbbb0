//! A file as the symbolizer reads it.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, Ordering},
};

use profiler_symbolizer::ReadAt;
use rustix::io::{Errno, pread};

/// An open file, no further than its length when it was opened, and by `pread` only.
#[derive(Debug)]
pub(super) struct ObjectFile<'a> {
    descriptor: BorrowedFd<'a>,
    length: u64,
    stop: Option<&'a AtomicBool>,
}

impl<'a> ObjectFile<'a> {
    pub(super) fn new(descriptor: BorrowedFd<'a>, length: u64) -> Self {
        Self {
            descriptor,
            length,
            stop: None,
        }
    }

    /// Reads nothing more once this is set: whatever is done with the file ends soon.
    pub(super) fn until(self, stop: &'a AtomicBool) -> Self {
        Self {
            stop: Some(stop),
            ..self
        }
    }
}

impl ReadAt for ObjectFile<'_> {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(io::Error::other("the daemon is stopping"));
        }
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        loop {
            match pread(self.descriptor, &mut buffer[..count], offset) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

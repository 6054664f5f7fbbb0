//! A file as the symbolizer reads it.

use std::{io, os::fd::BorrowedFd};

use profiler_symbolizer::ReadAt;
use rustix::io::{Errno, pread};

/// An open file, no further than its length when it was opened, and by `pread` only.
#[derive(Debug)]
pub(super) struct ObjectFile<'a> {
    descriptor: BorrowedFd<'a>,
    length: u64,
}

impl<'a> ObjectFile<'a> {
    pub(super) fn new(descriptor: BorrowedFd<'a>, length: u64) -> Self {
        Self { descriptor, length }
    }
}

impl ReadAt for ObjectFile<'_> {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
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

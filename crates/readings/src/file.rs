//! Files of the kernel, kept open where they are read often.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    buffer::spare_capacity,
    fs::{FileType, Mode, OFlags, fstat, open, openat},
    io::{Errno, pread, retry_on_intr},
};

/// Least room for one call of pread: what the kernel writes at once.
const ROOM_BYTES: usize = 4096;
/// Most bytes of a file that says one thing of one subject.
pub(crate) const SMALL_FILE_BYTES: usize = 64 << 10;
/// Most bytes of a list.
pub(crate) const LIST_BYTES: usize = 4 << 20;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The kernel did not give it.
    #[error("cannot read {}: {reason}", path.display())]
    Failed {
        /// What was to be read.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The content is not what the kernel writes.
    #[error("{} is not of the kernel's format", path.display())]
    Malformed {
        /// What was read.
        path: PathBuf,
    },
    /// There is more of it than is read.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLong {
        /// What was read.
        path: PathBuf,
        /// How much is read.
        limit: usize,
    },
    /// Nothing that could be read is there.
    #[error("{what}")]
    Absent {
        /// What is missing.
        what: &'static str,
    },
}

impl ReadError {
    pub(crate) fn failed(path: &Path, reason: Errno) -> Self {
        Self::Failed {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(path: &Path) -> Self {
        Self::Malformed { path: path.to_owned() }
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Failed { reason, .. } => Errno::from_io_error(reason),
            _ => None,
        }
    }

    /// Whether the host does not have it at all.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Absent { .. })
            || matches!(self.errno(), Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::NOSYS))
    }

    /// Whether what the file is about has ended: a process, or a control group.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOENT | Errno::SRCH | Errno::NODEV))
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Records, of which the kernel gives as many at once as it likes.
    List,
    /// One record. The kernel gives all of it that there is room for, so that what did not fill the room is all.
    Record,
}

impl Content {
    fn limit(self) -> usize {
        match self {
            Self::List => LIST_BYTES,
            Self::Record => SMALL_FILE_BYTES,
        }
    }
}

/// A file that is read from its start each time, through one descriptor.
#[derive(Debug)]
pub(crate) struct KernelFile {
    path: PathBuf,
    content: Content,
    keep: bool,
    file: Option<OwnedFd>,
}

impl KernelFile {
    /// A list, or a file that is none of a single subject's.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            content: Content::List,
            keep: true,
            file: None,
        }
    }

    /// A small file, of one record. `keep` is whether its descriptor stays open.
    pub(crate) fn small(path: PathBuf, keep: bool) -> Self {
        Self {
            path,
            content: Content::Record,
            keep,
            file: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The lines that it has now, whole, in `buffer`.
    pub(crate) fn read<'buffer>(&mut self, buffer: &'buffer mut Vec<u8>) -> Result<&'buffer [u8], ReadError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open_regular(&self.path)?,
        };
        read_whole(&file, self.content, buffer).map_err(|unread| unread.of(&self.path))?;
        if self.keep {
            self.file = Some(file);
        }
        Ok(buffer)
    }

    /// Its content as `parse` understands it.
    pub(crate) fn parse<T>(
        &mut self,
        buffer: &mut Vec<u8>,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, ReadError> {
        let text = self.read(buffer)?;
        parse(text).ok_or_else(|| ReadError::malformed(&self.path))
    }
}

/// Reads a file once that may be empty, and ends as it likes.
pub(crate) fn read_once(path: &Path, limit: usize, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
    read_all(&open_regular(path)?, Content::List, limit, buffer).map_err(|unread| unread.of(path))
}

/// Reads a file once and understands it.
pub(crate) fn parse_once<T>(
    path: PathBuf,
    buffer: &mut Vec<u8>,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, ReadError> {
    KernelFile::small(path, false).parse(buffer, parse)
}

/// The same of a file of one record in a folder of the kernel's own. `path` is what an error names.
pub(crate) fn parse_in<T>(
    folder: BorrowedFd<'_>,
    name: &[u8],
    path: impl Fn() -> PathBuf,
    buffer: &mut Vec<u8>,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, ReadError> {
    let file = retry_on_intr(|| openat(folder, name, OPEN_FLAGS, Mode::empty()));
    let file = file.map_err(|reason| ReadError::failed(&path(), reason))?;
    read_whole(&file, Content::Record, buffer).map_err(|unread| unread.of(&path()))?;
    parse(buffer).ok_or_else(|| ReadError::malformed(&path()))
}

/// Whatever lies there is not waited for.
const OPEN_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens a regular file.
fn open_regular(path: &Path) -> Result<OwnedFd, ReadError> {
    let failed = |reason| ReadError::failed(path, reason);
    let file = retry_on_intr(|| open(path, OPEN_FLAGS, Mode::empty())).map_err(failed)?;
    let mode = fstat(&file).map_err(failed)?.st_mode;
    if !FileType::from_raw_mode(mode).is_file() {
        return Err(ReadError::malformed(path));
    }
    Ok(file)
}

/// Why a file was not read, before anybody asks which.
enum Unread {
    Failed(Errno),
    Malformed,
    TooLong(usize),
}

impl Unread {
    fn of(self, path: &Path) -> ReadError {
        match self {
            Self::Failed(reason) => ReadError::failed(path, reason),
            Self::Malformed => ReadError::malformed(path),
            Self::TooLong(limit) => ReadError::TooLong {
                path: path.to_owned(),
                limit,
            },
        }
    }
}

/// Reads a file whose lines are whole.
fn read_whole(file: &OwnedFd, content: Content, buffer: &mut Vec<u8>) -> Result<(), Unread> {
    read_all(file, content, content.limit(), buffer)?;
    // The kernel ends each line. What does not end so was cut off.
    if buffer.last() != Some(&b'\n') {
        return Err(Unread::Malformed);
    }
    Ok(())
}

fn read_all(file: &OwnedFd, content: Content, limit: usize, buffer: &mut Vec<u8>) -> Result<(), Unread> {
    buffer.clear();
    loop {
        buffer.reserve(ROOM_BYTES);
        let (offset, room) = (buffer.len() as u64, buffer.capacity() - buffer.len());
        let read = retry_on_intr(|| pread(file, spare_capacity(buffer), offset)).map_err(Unread::Failed)?;
        if buffer.len() > limit {
            return Err(Unread::TooLong(limit));
        }
        if read == 0 || content == Content::Record && read < room {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_kept_file_is_read_anew_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut buffer = Vec::new();
        let mut file = KernelFile::small(path.clone(), true);
        assert!(file.read(&mut buffer).unwrap_err().is_unsupported());
        fs::write(&path, "one\n").unwrap();
        assert_eq!(file.read(&mut buffer).unwrap(), b"one\n");
        let long = "x".repeat(3 * ROOM_BYTES) + "\n";
        fs::write(&path, &long).unwrap();
        assert_eq!(file.read(&mut buffer).unwrap(), long.as_bytes());
        fs::write(&path, "no end").unwrap();
        assert!(matches!(file.read(&mut buffer), Err(ReadError::Malformed { .. })));
        fs::write(&path, "x".repeat(SMALL_FILE_BYTES + 1)).unwrap();
        assert!(matches!(file.read(&mut buffer), Err(ReadError::TooLong { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(file.read(&mut buffer), Err(ReadError::Malformed { .. })));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut file = KernelFile::new(path);
        assert!(matches!(file.read(&mut Vec::new()), Err(ReadError::Malformed { .. })));
        let mut folder_as_file = KernelFile::new(folder.path().to_owned());
        assert!(folder_as_file.read(&mut Vec::new()).is_err());
    }
}

//! The directory of kept rows and the files in it: opened, read, written and removed under the rules for what is not trusted.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use profiler_unwinding::{ContentId, Limits, RowTable};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::{CacheError, PARTIAL_SUFFIX};

/// Opens the directory, and makes it if there is none.
pub(super) fn open(path: &Path) -> Result<OwnedFd, CacheError> {
    let failed = |what| {
        move |source| CacheError::System {
            what,
            path: path.to_owned(),
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("making"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(failed("opening"))?;
    let stat = rustix::fs::fstat(&directory)
        .map_err(io::Error::from)
        .map_err(failed("opening"))?;
    if !is_of_our_user(&stat) {
        return Err(CacheError::Foreign { path: path.to_owned() });
    }
    Ok(directory)
}

/// A table, if the file of this name is ours and whole, and the file.
pub(super) fn read(directory: &OwnedFd, name: &str, content: &ContentId) -> Result<(RowTable, File), String> {
    // A FIFO does not wait for its writer then.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let stat = rustix::fs::fstat(&file).map_err(|error| error.to_string())?;
    if !is_ours(&stat) {
        return Err("not a regular file of the daemon's user alone".to_owned());
    }
    let limits = Limits::default();
    let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if length > limits.max_stored_bytes() {
        return Err(format!("{length} bytes"));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    let file = File::from(file);
    (&file)
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    let table = RowTable::from_bytes(&bytes, content, &limits).map_err(|error| error.to_string())?;
    Ok((table, file))
}

/// Writes a file whole or not at all, and leaves it open. What the disk has after a power failure is told by the digest.
pub(super) fn write(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<File> {
    let partial = format!(".{name}.{}{PARTIAL_SUFFIX}", std::process::id());
    remove(directory, &partial);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, &partial, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file
        .write_all(bytes)
        .and_then(|()| Ok(rustix::fs::renameat(directory, &partial, directory, name)?));
    written.inspect_err(|_| remove(directory, &partial))?;
    Ok(file)
}

pub(super) fn remove(directory: &OwnedFd, name: &str) {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => tracing::debug!(name, %error, "a file of kept rows stays"),
    }
}

/// Leaves word for the next start. That it fails on a read-only disk is no loss.
pub(super) fn note_use(directory: &OwnedFd, name: &str, now_seconds: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: now_seconds,
            tv_nsec: 0,
        },
    };
    if let Err(error) = rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(name, %error, "the last use of kept rows is not noted");
    }
}

pub(super) fn is_ours(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && is_of_our_user(stat)
}

/// Whether nobody but the daemon's user could have written it.
fn is_of_our_user(stat: &rustix::fs::Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
        && !Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH)
}

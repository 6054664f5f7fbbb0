//! Reads configuration files. The only part of this crate that does I/O.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::SourceFile;

/// Where the configuration of an installed daemon is.
pub const DEFAULT_DIRECTORY: &str = "/etc/profiler";
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most drop-ins.
const MAX_DROP_INS: usize = 256;

/// Why a configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It is something else than a file.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// It is too large for a configuration.
    #[error("{}: larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There are too many files.
    #[error("{}: more than {MAX_DROP_INS} drop-ins", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
}

/// `config.toml` in `directory`, then `config.d/*.toml` by the bytes of their names. What is missing is left out.
pub fn read_default_files(directory: &Path) -> Result<Vec<SourceFile>, ReadError> {
    let mut files = Vec::new();
    let main = directory.join("config.toml");
    match read_file(&main) {
        Ok(file) => files.push(file),
        Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for path in drop_ins(&directory.join("config.d"))? {
        files.push(read_file(&path)?);
    }
    Ok(files)
}

/// One file, which must exist.
pub fn read_file(path: &Path) -> Result<SourceFile, ReadError> {
    let io = |source: io::Error| ReadError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io(errno.into()))?);
    if !file.metadata().map_err(io)?.is_file() {
        return Err(ReadError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    let mut contents = Vec::new();
    (&mut file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut contents)
        .map_err(io)?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge {
            path: path.to_path_buf(),
        });
    }
    Ok(SourceFile {
        path: path.to_path_buf(),
        contents,
    })
}

fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let io = |source: io::Error| ReadError::Io {
        path: directory.to_path_buf(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            if paths.len() == MAX_DROP_INS {
                return Err(ReadError::TooMany {
                    path: directory.to_path_buf(),
                });
            }
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

//! Where a profile is written: standard output, the file asked for, or a new file of our own naming.

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{error::CliError, output::Format};

/// Files of one name before giving up.
const MAX_SAME_NAME: u32 = 10_000;
/// Longest part of a file's name that comes from a target.
const MAX_STEM_BYTES: usize = 64;

/// Where a profile is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Standard output.
    Stdout,
    /// The file that was asked for; what was in it is replaced.
    File(PathBuf),
    /// A file that does not exist yet, in the current directory.
    NewFile,
}

impl Destination {
    /// Decides from `-o` and from where standard output leads. What is to be opened must be a file.
    pub(crate) fn choose(output: Option<&Path>, open: bool) -> Result<Self, CliError> {
        match output {
            Some(path) if path.as_os_str() == "-" && open => Err(CliError::Usage {
                message: "--open needs a file, and -o - writes to standard output".to_owned(),
            }),
            Some(path) if path.as_os_str() == "-" => Ok(Self::Stdout),
            Some(path) => Ok(Self::File(path.to_owned())),
            None if open || io::stdout().is_terminal() => Ok(Self::NewFile),
            None => Ok(Self::Stdout),
        }
    }

    /// Writes all of it; gives the file's path if it went to one. `stem` is the name for a new file.
    pub(crate) fn write(&self, bytes: &[u8], stem: &str, format: Format) -> Result<Option<PathBuf>, CliError> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()?;
                Ok(None)
            }
            Self::File(path) => match fs::write(path, bytes) {
                Ok(()) => Ok(Some(path.clone())),
                Err(source) => Err(CliError::WriteFile {
                    path: path.clone(),
                    source,
                }),
            },
            Self::NewFile => write_new(Path::new(""), bytes, stem, format.extension()).map(Some),
        }
    }
}

/// Writes a file that did not exist before, with a number in its name where needed.
fn write_new(directory: &Path, bytes: &[u8], stem: &str, extension: &str) -> Result<PathBuf, CliError> {
    for number in 0..MAX_SAME_NAME {
        let name = if number == 0 {
            format!("{stem}{extension}")
        } else {
            format!("{stem}-{number}{extension}")
        };
        let path = directory.join(name);
        let written = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => file.write_all(bytes),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => Err(error),
        };
        return match written {
            Ok(()) => Ok(path),
            Err(source) => Err(CliError::WriteFile { path, source }),
        };
    }
    let source = io::Error::new(
        io::ErrorKind::AlreadyExists,
        "too many files of this name; give one with -o",
    );
    Err(CliError::WriteFile {
        path: directory.join(format!("{stem}{extension}")),
        source,
    })
}

/// The name of a file, without its extension, for the profile of `name`. Only harmless characters of it are kept.
pub(crate) fn file_stem(name: &str, pid: Option<u32>) -> String {
    let mut stem = String::from("flamegraph-");
    for character in name.chars().take(MAX_STEM_BYTES) {
        let harmless = character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
        stem.push(if harmless { character } else { '_' });
    }
    if let Some(pid) = pid {
        stem.push_str(&format!("-{pid}"));
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_harmless() {
        assert_eq!(file_stem("checkout", Some(7)), "flamegraph-checkout-7");
        assert_eq!(
            file_stem("../../etc/\x1b[2Jpasswd ü", None),
            "flamegraph-.._.._etc___2Jpasswd__"
        );
        assert!(file_stem(&"x".repeat(10_000), Some(u32::MAX)).len() < 100);
    }

    #[test]
    fn nothing_is_overwritten_silently() {
        let directory = tempfile::tempdir().unwrap();
        let write = |bytes: &[u8]| write_new(directory.path(), bytes, "flamegraph-app-7", ".svg").unwrap();
        assert_eq!(write(b"one"), directory.path().join("flamegraph-app-7.svg"));
        assert_eq!(write(b"two"), directory.path().join("flamegraph-app-7-1.svg"));
        assert_eq!(write(b"three"), directory.path().join("flamegraph-app-7-2.svg"));
        assert_eq!(fs::read(directory.path().join("flamegraph-app-7.svg")).unwrap(), b"one");
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error() {
        let error = write_new(Path::new("/nonexistent"), b"", "a", ".svg").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/a.svg"), "{error}");
    }
}

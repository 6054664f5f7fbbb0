//! Secrets and certificates, read from files that nobody else can have touched or, of secrets, read.
//!
//! Those of sinks are read for each attempt, so that a new one counts at once, and never shown: what a sink answers may hold
//! them, and has them taken out.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Shortest text that is taken out of what is shown: a shorter one is no secret, and part of many words.
const SHORTEST_SECRET: usize = 4;
/// Others may do nothing with a secret, and its group may read it at most.
const NOT_FOR_SECRETS: u32 = 0o027;
/// Others may not write what is trusted.
const NOT_FOR_CERTIFICATES: u32 = 0o022;

/// Nobody but the owner of what lets others in may do anything with it.
const NOT_FOR_OWN_SECRETS: u32 = 0o077;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("{}: no regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else owns it.
    #[error("{}: belongs to user {owner}, and must belong to root or to the daemon's own", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whom it belongs to.
        owner: u32,
    },
    /// Others may read or write it.
    #[error("{}: mode {:03o} lets others at it: chmod {allowed:o} mends that", path.display(), mode & 0o777)]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What would be left of it.
        allowed: u32,
    },
    /// It is no file for this.
    #[error("{}: more than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold what it should.
    #[error("{}: not what it should hold: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The text without the secret.
    pub(crate) fn taken_out_of(&self, text: &str) -> String {
        if self.0.len() < SHORTEST_SECRET {
            return text.to_owned();
        }
        text.replace(&self.0, "[secret]")
    }
}

/// The first line of a file.
pub(crate) fn first_line(path: &Path) -> Result<Secret, FileError> {
    let text = text_of(path)?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() {
        return Err(contents(path, "its first line is empty"));
    }
    Ok(Secret(line.to_owned()))
}

/// The first line of a file, which is `user:password`, as HTTP's basic authentication has it (RFC 7617).
pub(crate) fn basic(path: &Path) -> Result<Secret, FileError> {
    let line = first_line(path)?;
    if !line.0.contains(':') {
        return Err(contents(path, "its first line is no `user:password`"));
    }
    Ok(Secret(base64(line.0.as_bytes())))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4 {
            let digit = ALPHABET[((bits >> (18 - 6 * place)) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The lines of a file that are `Name: value`.
pub(crate) fn headers(path: &Path) -> Result<Vec<(String, Secret)>, FileError> {
    let text = text_of(path)?;
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), Secret(value.trim().to_owned()))),
            None => Err(contents(path, "a line is no `Name: value`")),
        })
        .collect()
}

/// What others may read, but not write.
pub(crate) fn certificates(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, NOT_FOR_CERTIFICATES)
}

/// A private key, as it is in its file.
pub(crate) fn private_key(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, NOT_FOR_SECRETS)
}

/// What callers of the daemon have to show.
pub(crate) fn own_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, NOT_FOR_OWN_SECRETS)
}

fn text_of(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read(path, NOT_FOR_SECRETS)?).map_err(|_invalid| contents(path, "it is no UTF-8"))
}

pub(crate) fn contents(path: &Path, problem: &'static str) -> FileError {
    FileError::Contents {
        path: path.to_owned(),
        problem,
    }
}

fn read(path: &Path, forbidden: u32) -> Result<Vec<u8>, FileError> {
    let path_of = || path.to_owned();
    let failed = |source| FileError::Read {
        path: path_of(),
        source,
    };
    // A pipe in its place would have the daemon wait, and a terminal become its own.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path: path_of() });
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(FileError::Owner { path: path_of(), owner });
    }
    if mode & forbidden != 0 {
        let (path, allowed) = (path_of(), mode & 0o777 & !forbidden);
        return Err(FileError::Mode { path, mode, allowed });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLarge { path: path_of() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(folder: &Path, contents: &str, mode: u32) -> PathBuf {
        let path = folder.join(format!("{mode:o}"));
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn users_and_passwords_are_encoded() {
        // Of RFC 7617, and of RFC 4648.
        for (plain, encoded) in [
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("test:123\u{a3}", "dGVzdDoxMjPCow=="),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("", ""),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        let folder = tempfile::tempdir().unwrap();
        let secret = basic(&file(folder.path(), "Aladdin:open sesame\n", 0o600)).unwrap();
        assert_eq!(secret.expose(), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{secret:?}").contains("QWx"));
        for (text, mode) in [("Aladdin", 0o600), ("Aladdin:open sesame", 0o644), ("\n", 0o640)] {
            assert!(basic(&file(folder.path(), text, mode)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_what_others_cannot_reach_is_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, is_secret, is_certificate) in [
            (0o600, true, true),
            (0o640, true, true),
            (0o644, false, true),
            (0o604, false, true),
            (0o660, false, false),
            (0o602, false, false),
        ] {
            let path = file(folder.path(), " s3cret \nmore\n", mode);
            assert_eq!(first_line(&path).is_ok(), is_secret, "{mode:o}");
            assert_eq!(certificates(&path).is_ok(), is_certificate, "{mode:o}");
        }
        let secret = first_line(&folder.path().join("600")).unwrap();
        assert_eq!(secret.expose(), "s3cret");
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.taken_out_of("no s3cret here"), "no [secret] here");
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            first_line(&folder.path().join("none")),
            Err(FileError::Read { .. })
        ));
        assert!(matches!(first_line(folder.path()), Err(FileError::NotRegular { .. })));
        let empty = file(folder.path(), "\nx", 0o600);
        assert!(matches!(first_line(&empty), Err(FileError::Contents { .. })));
        let large = folder.path().join("large");
        fs::write(&large, vec![b'x'; MAX_FILE_BYTES as usize + 1]).unwrap();
        fs::set_permissions(&large, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(first_line(&large), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn headers_are_names_and_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "# key\nX-Key: a:b\n\nY:c\n", 0o600);
        let read: Vec<_> = headers(&path)
            .unwrap()
            .into_iter()
            .map(|(name, value)| (name, value.expose().to_owned()))
            .collect();
        assert_eq!(
            read,
            [("X-Key".to_owned(), "a:b".to_owned()), ("Y".to_owned(), "c".to_owned())]
        );
        fs::write(&path, "nonsense").unwrap();
        let error = headers(&path).unwrap_err().to_string();
        assert!(!error.contains("nonsense"), "{error}");
    }
}

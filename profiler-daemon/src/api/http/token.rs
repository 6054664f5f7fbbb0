//! The token that callers over TCP show.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::secrets::{self, FileError};

/// Bytes of a token.
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 4096;

/// A token. Only its digest is kept, so that it can neither be shown nor compared byte by byte.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads a token from a file that only its owner, root or the daemon's user, may read. White space around it does not
    /// count.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = secrets::own_secret(path)?;
        let token = bytes.trim_ascii();
        if !(MIN_BYTES..=MAX_BYTES).contains(&token.len()) {
            return Err(secrets::contents(path, "a token has 16 to 4096 bytes"));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(secrets::contents(path, "a token is of printable ASCII without spaces"));
        }
        Ok(Self(digest(token)))
    }

    /// Whether a value of the header `authorization` shows it. How long that takes tells nothing of the token: digests are
    /// compared, and each byte of them.
    pub fn is_shown_by(&self, authorization: &[u8]) -> bool {
        let Some((scheme, shown)) = authorization.split_at_checked(b"Bearer ".len()) else {
            return false;
        };
        let shown = digest(shown.trim_ascii());
        let difference = self
            .0
            .iter()
            .zip(shown)
            .fold(0, |sum, (ours, theirs)| sum | (ours ^ theirs));
        scheme.eq_ignore_ascii_case(b"Bearer ") && difference == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn read(contents: &str, mode: u32) -> Result<Token, FileError> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("token");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::read(&path)
    }

    #[test]
    fn only_the_token_is_let_in() {
        let token = read("0123456789abcdef\n", 0o600).unwrap();
        for (shown, expected) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer 0123456789abcdef", true),
            ("Bearer 0123456789abcdeg", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(token.is_shown_by(shown.as_bytes()), expected, "{shown:?}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn a_secret_that_others_may_read_is_none() {
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let error = read("0123456789abcdef", mode).unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for contents in ["short", "", "0123456789 abcdef", &"x".repeat(5000)] {
            assert!(read(contents, 0o400).is_err(), "{contents:?}");
        }
        assert!(matches!(
            Token::read(Path::new("/nowhere/token")),
            Err(FileError::Read { .. })
        ));
        assert!(matches!(
            Token::read(Path::new("/dev/null")),
            Err(FileError::NotRegular { .. })
        ));
    }
}

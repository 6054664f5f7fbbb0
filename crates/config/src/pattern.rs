//! Patterns that name processes by their program.

use std::{borrow::Cow, fmt};

use profiler_hooks::glob;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// Longest pattern.
const MAX_PATTERN_BYTES: usize = 256;
/// Patterns of one list: each is held against every new process.
const MAX_PATTERNS: usize = 256;

/// Names processes by their program: with a slash it is held against the whole path of the executable, without one
/// against the last part of that path and against the process's name.
///
/// `?` stands for one byte and `*` for any number, neither for a slash; `**` also crosses slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}: expected the path of an executable, or a name, of 1 to {MAX_PATTERN_BYTES} bytes; `?`, `*` and `**` are placeholders"
)]
pub struct InvalidPattern {
    problem: &'static str,
}

impl Pattern {
    /// Reads a pattern.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() {
            Err(InvalidPattern {
                problem: "an empty pattern",
            })
        } else if text.len() > MAX_PATTERN_BYTES {
            Err(InvalidPattern {
                problem: "a pattern that is too long",
            })
        } else if text.contains(char::is_control) {
            Err(InvalidPattern {
                problem: "a pattern with a control character",
            })
        } else if text.contains('/') && !text.starts_with(['/', '*']) {
            // It would never match: paths of executables are absolute.
            Err(InvalidPattern {
                problem: "a pattern with a slash that begins with neither `/` nor `*`",
            })
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// Whether it names a process with this executable (path as the process sees it) and this name.
    pub fn matches(&self, executable: &[u8], name: &[u8]) -> bool {
        if self.0.contains('/') {
            return glob(&self.0, executable);
        }
        let base = executable.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        glob(&self.0, base) || glob(&self.0, name)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&Cow::<'de, str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A list of patterns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Patterns(pub(crate) Vec<Pattern>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<Pattern>::deserialize(deserializer)?;
        if patterns.len() > MAX_PATTERNS {
            return Err(D::Error::invalid_length(
                patterns.len(),
                &format!("at most {MAX_PATTERNS} patterns").as_str(),
            ));
        }
        Ok(Self(patterns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, executable: &str, name: &str, expected: bool) {
        let matched = Pattern::new(pattern)
            .unwrap()
            .matches(executable.as_bytes(), name.as_bytes());
        assert_eq!(matched, expected, "{pattern} against {executable} ({name})");
    }

    #[test]
    fn names_match_the_last_part_or_the_process() {
        check("nginx", "/usr/sbin/nginx", "worker", true);
        check("worker", "/usr/sbin/nginx", "worker", true);
        check("nginx", "/opt/nginx/bin/other", "other", false);
        check("py*", "/usr/bin/python3.11", "x", true);
        check("py?", "/usr/bin/python3", "x", false);
        check("*", "", "", true);
    }

    #[test]
    fn paths_match_whole() {
        check("/usr/bin/*", "/usr/bin/python3", "", true);
        check("/usr/bin/*", "/usr/bin/deep/python3", "", false);
        check("/usr/**/python3", "/usr/local/bin/python3", "", true);
        check("**/target/*/svc", "/home/a/target/release/svc", "", true);
        check("/usr/bin/svc", "/usr/bin/svc2", "", false);
        check("/usr/bin/svc", "/mnt/usr/bin/svc", "", false);
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["", "usr/bin/x", "a\nb", &"x".repeat(257)] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_full_of_placeholders_stays_fast() {
        let pattern = "*a".repeat(128);
        let text = "a".repeat(4096);
        check(&pattern, &format!("/{text}b"), "", false);
    }
}

//! Versions of CPython, and which of them are known.

use std::fmt;

/// How finished a release is: the field `PY_RELEASE_LEVEL` of `PY_VERSION_HEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// Structures change from one to the next.
    Alpha(u8),
    /// Structures may change still.
    Beta(u8),
    /// Structures are those of the final release.
    Candidate(u8),
    /// A release.
    Final,
}

/// The version of an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// Structures are laid out by this number.
    pub minor: u8,
    /// `None` before 3.11, where the object does not state it.
    pub micro: Option<u8>,
    /// How finished it is.
    pub release: Release,
}

impl Version {
    /// Oldest minor version of Python 3 whose structures are known.
    pub const OLDEST_MINOR: u8 = 8;
    /// Newest minor version of Python 3 whose structures are known.
    pub const NEWEST_MINOR: u8 = 15;

    /// A release whose last number is not known.
    pub(crate) fn of_minor(minor: u8) -> Self {
        Self {
            major: 3,
            minor,
            micro: None,
            release: Release::Final,
        }
    }

    /// From `PY_VERSION_HEX`: major, minor, micro, four bits of level (`0xA`, `0xB`, `0xC`, `0xF`) and four of serial
    /// (CPython's `patchlevel.h`). `None` if the level is none of these.
    pub(crate) fn from_hex(hex: u32) -> Option<Self> {
        let [low, micro, minor, major] = hex.to_le_bytes();
        let serial = low & 0xf;
        let release = match low >> 4 {
            0xa => Release::Alpha(serial),
            0xb => Release::Beta(serial),
            0xc => Release::Candidate(serial),
            0xf => Release::Final,
            _ => return None,
        };
        Some(Self {
            major,
            minor,
            micro: Some(micro),
            release,
        })
    }

    /// Whether structures of this version are those of its final release.
    pub(crate) fn is_settled(self) -> bool {
        self.release >= Release::Candidate(0)
    }

    /// Whether the structures of this version are known.
    pub(crate) fn is_known(self) -> bool {
        self.major == 3 && (Self::OLDEST_MINOR..=Self::NEWEST_MINOR).contains(&self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)?;
        if let Some(micro) = self.micro {
            write!(formatter, ".{micro}")?;
        }
        match self.release {
            Release::Alpha(serial) => write!(formatter, "a{serial}"),
            Release::Beta(serial) => write!(formatter, "b{serial}"),
            Release::Candidate(serial) => write!(formatter, "rc{serial}"),
            Release::Final => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hex: u32, expect: Option<&str>) {
        assert_eq!(
            Version::from_hex(hex).map(|version| version.to_string()).as_deref(),
            expect
        );
    }

    #[test]
    fn hex_versions() {
        check(0x030b_02f0, Some("3.11.2"));
        check(0x030e_00c2, Some("3.14.0rc2"));
        check(0x030f_00a3, Some("3.15.0a3"));
        check(0x030d_00b0, Some("3.13.0b0"));
        check(0x0310_0000, None);
        check(0, None);
    }

    #[test]
    fn known_and_settled() {
        let of = |hex| Version::from_hex(hex).unwrap();
        assert!(Version::of_minor(8).is_known());
        assert!(!Version::of_minor(7).is_known());
        assert!(!of(0x0310_00f0).is_known());
        assert!(!of(0x040b_00f0).is_known());
        assert!(of(0x030e_00c2).is_settled());
        assert!(!of(0x030e_00b4).is_settled());
    }
}

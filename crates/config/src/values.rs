//! Values as they are written: integers, sizes, durations, paths and names, each with what is allowed in its type.
//!
//! A value out of range is refused while its file is parsed, so that the error carries the line.

use std::{
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

use crate::sinks::check_url;

/// Sizes are written in these units, the smallest first.
pub(crate) const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// Durations are written in these units of milliseconds, the smallest first.
pub(crate) const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
/// Longest path of a unix socket: `sun_path` has 108 bytes, the last of them zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Longest path of a directory or file.
const MAX_PATH_BYTES: usize = 4095;
/// Longest name of a group (`LOGIN_NAME_MAX` and `useradd` allow 32 and fewer; directories allow more).
const MAX_GROUP_BYTES: usize = 256;

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Integer<MIN, MAX> {
    /// The value; `MIN` must be at least 1.
    pub(crate) fn get(self) -> NonZeroU32 {
        NonZeroU32::new(self.0).unwrap_or(NonZeroU32::MIN)
    }
}

impl<const MIN: u32, const MAX: u32> From<NonZeroU32> for Integer<MIN, MAX> {
    fn from(value: NonZeroU32) -> Self {
        Self(value.get())
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Integer<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntegerVisitor<const MIN: u32, const MAX: u32>;
        impl<const MIN: u32, const MAX: u32> Visitor<'_> for IntegerVisitor<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<u32, E> {
                match u32::try_from(value) {
                    Ok(value) if (MIN..=MAX).contains(&value) => Ok(value),
                    _ => Err(E::invalid_value(Unexpected::Signed(value), &self)),
                }
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<u32, E> {
                match u32::try_from(value) {
                    Ok(value) if (MIN..=MAX).contains(&value) => Ok(value),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
                }
            }
        }
        deserializer.deserialize_i64(IntegerVisitor::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for Integer<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

/// A size from `MIN` to `MAX` bytes, written as `"32MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Size<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity {
            kind: "a size",
            units: &SIZE_UNITS,
            least: MIN,
            most: MAX,
        };
        deserializer.deserialize_str(quantity).map(Self)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&in_largest_unit(self.0, &SIZE_UNITS))
    }
}

/// A duration from `MIN` to `MAX` milliseconds, written as `"15m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    /// The value.
    pub(crate) fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> From<Duration> for Period<MIN, MAX> {
    fn from(value: Duration) -> Self {
        Self(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Period<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity {
            kind: "a duration",
            units: &DURATION_UNITS,
            least: MIN,
            most: MAX,
        };
        deserializer.deserialize_str(quantity).map(Self)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Period<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&in_largest_unit(self.0, &DURATION_UNITS))
    }
}

/// Reads a whole number with a unit.
struct Quantity {
    kind: &'static str,
    units: &'static [(&'static str, u64)],
    least: u64,
    most: u64,
}

/// A whole number with one of the units.
pub(crate) fn whole_in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl Quantity {
    fn parse(&self, text: &str) -> Option<u64> {
        let value = whole_in_units(text, self.units)?;
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

impl Visitor<'_> for Quantity {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = in_largest_unit(self.least, self.units);
        let most = in_largest_unit(self.most, self.units);
        write!(
            f,
            "{} from \"{least}\" to \"{most}\" (a whole number and one of",
            self.kind
        )?;
        for (index, (unit, _)) in self.units.iter().enumerate() {
            write!(f, "{}{unit}", if index == 0 { " " } else { ", " })?;
        }
        f.write_str(")")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        self.parse(text)
            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The value in the largest unit that divides it.
pub(crate) fn in_largest_unit(value: u64, units: &[(&str, u64)]) -> String {
    let largest = units
        .iter()
        .rev()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (unit, factor) = largest.or(units.first()).copied().unwrap_or(("", 1));
    format!("{}{unit}", value / factor)
}

/// An absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AbsolutePath(pub(crate) PathBuf);

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(PathVisitor {
                longest: MAX_PATH_BYTES,
            })
            .map(Self)
    }
}

/// An absolute path that a unix socket can be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SocketPath(pub(crate) PathBuf);

impl<'de> Deserialize<'de> for SocketPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(PathVisitor {
                longest: MAX_SOCKET_PATH_BYTES,
            })
            .map(Self)
    }
}

struct PathVisitor {
    longest: usize,
}

impl Visitor<'_> for PathVisitor {
    type Value = PathBuf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an absolute path of at most {} bytes", self.longest)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PathBuf, E> {
        let path = Path::new(text);
        if path.is_absolute() && text.len() <= self.longest && !text.contains('\0') {
            Ok(path.to_path_buf())
        } else {
            Err(E::invalid_value(Unexpected::Str(text), &self))
        }
    }
}

/// The name of a group; empty for none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GroupName(pub(crate) String);

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        // What would break a line of /etc/group apart can be no name in it.
        let breaks = |c: char| c.is_control() || c.is_whitespace() || c == ':' || c == ',';
        if name.len() > MAX_GROUP_BYTES || name.contains(breaks) {
            let expected = "the name of a group, or \"\" for none";
            return Err(D::Error::invalid_value(Unexpected::Str(&name), &expected));
        }
        Ok(Self(name))
    }
}

/// The address of a page; empty for none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ExternalUrl(pub(crate) String);

impl<'de> Deserialize<'de> for ExternalUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = String::deserialize(deserializer)?;
        if !url.is_empty() {
            check_url(&url).map_err(D::Error::custom)?;
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let size = Quantity {
            kind: "a size",
            units: &SIZE_UNITS,
            least: 1,
            most: u64::MAX,
        };
        let duration = Quantity {
            kind: "a duration",
            units: &DURATION_UNITS,
            least: 1,
            most: u64::MAX,
        };
        for (text, expected) in [
            ("1B", Some(1)),
            ("32MiB", Some(32 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("0B", None),
            ("32", None),
            ("32MB", None),
            ("MiB", None),
            ("-1MiB", None),
            ("1.5MiB", None),
            ("99999999999999999999B", None),
            ("18446744073709551615GiB", None),
            ("", None),
        ] {
            assert_eq!(size.parse(text), expected, "{text}");
        }
        for (text, expected) in [
            ("500ms", Some(500)),
            ("15m", Some(900_000)),
            ("1d", Some(86_400_000)),
            ("1h30m", None),
            ("15 minutes", None),
        ] {
            assert_eq!(duration.parse(text), expected, "{text}");
        }
    }

    #[test]
    fn written_in_the_largest_unit() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (48 << 20, "48MiB"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(in_largest_unit(bytes, &SIZE_UNITS), expected);
        }
        for (milliseconds, expected) in [(1500, "1500ms"), (90_000, "90s"), (900_000, "15m"), (86_400_000, "1d")] {
            assert_eq!(in_largest_unit(milliseconds, &DURATION_UNITS), expected);
        }
    }
}

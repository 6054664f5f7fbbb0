//! The level of a limit as it is written: a percent, a size, a duration or a number, as the unit of the metric wants it.

use std::{fmt, ops::Range};

use profiler_alerts::Level;
use profiler_readings::{Kind, Metric, Unit};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

use crate::values::{DURATION_UNITS, SIZE_UNITS, in_largest_unit, whole_in_units};

/// A level as it is written. Which of them a metric takes is not known before all sources are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WrittenLevel {
    /// `"80%"`
    Percent(f64),
    /// `"2GiB"`
    Bytes(u64),
    /// `"30s"`
    Milliseconds(u64),
    /// `1.5`
    Number(f64),
}

impl WrittenLevel {
    fn parse(text: &str) -> Option<Self> {
        if let Some(number) = text.strip_suffix('%') {
            let is_plain = number
                .trim_end()
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
            let percent = number.trim_end().parse().ok().filter(|_| is_plain)?;
            return Some(Self::Percent(percent));
        }
        whole_in_units(text, &SIZE_UNITS)
            .map(Self::Bytes)
            .or_else(|| whole_in_units(text, &DURATION_UNITS).map(Self::Milliseconds))
    }

    /// A level as it is best written for a metric: reading it gives the same level.
    pub(crate) fn of(metric: Metric, level: Level) -> Self {
        let value = level.get();
        let as_percent = Self::Percent((value * 1e8).round() / 1e6);
        let as_bytes = Self::Bytes(value as u64);
        let as_time = Self::Milliseconds((value * 1e3).round() as u64);
        let best = match metric.unit() {
            Unit::Ratio => as_percent,
            Unit::Bytes | Unit::BytesPerHour => as_bytes,
            Unit::Seconds => as_time,
            _ => Self::Number(value),
        };
        let is_same = best.in_unit_of(metric).is_ok_and(|(read, _)| read == level);
        if is_same { best } else { Self::Number(value) }
    }

    /// The level in the unit of a metric, and what values that metric can have.
    pub(crate) fn in_unit_of(self, metric: Metric) -> Result<(Level, Range<f64>), String> {
        let a_second = match metric.kind() {
            Kind::Gauge => "",
            Kind::Counter => " (its rate a second)",
        };
        let (value, range, expected) = match (metric.unit(), self) {
            (Unit::Ratio, Self::Percent(percent)) => (Some(percent / 100.0), 0.0..1.0, RATIO),
            (Unit::Ratio, Self::Number(number)) => (Some(number), 0.0..1.0, RATIO),
            (Unit::Ratio, _) => (None, 0.0..1.0, RATIO),
            (Unit::Bytes, Self::Bytes(bytes)) => (Some(bytes as f64), POSITIVE, BYTES),
            (Unit::Bytes, Self::Number(number)) => (Some(number), POSITIVE, BYTES),
            (Unit::Bytes, _) => (None, POSITIVE, BYTES),
            (Unit::BytesPerHour, Self::Bytes(bytes)) => (Some(bytes as f64), POSITIVE, BYTES_PER_HOUR),
            (Unit::BytesPerHour, Self::Number(number)) => (Some(number), POSITIVE, BYTES_PER_HOUR),
            (Unit::BytesPerHour, _) => (None, POSITIVE, BYTES_PER_HOUR),
            (Unit::Seconds, Self::Milliseconds(time)) => (Some(time as f64 / 1e3), POSITIVE, SECONDS),
            (Unit::Seconds, Self::Number(number)) => (Some(number), POSITIVE, SECONDS),
            (Unit::Seconds, _) => (None, POSITIVE, SECONDS),
            (Unit::Celsius, Self::Number(number)) => (Some(number), -273.15..f64::INFINITY, CELSIUS),
            (Unit::Celsius, _) => (None, POSITIVE, CELSIUS),
            (Unit::Cores | Unit::Count | Unit::Watts | Unit::Joules | Unit::Hertz, Self::Number(number)) => {
                (Some(number), POSITIVE, NUMBER)
            }
            (Unit::Cores | Unit::Count | Unit::Watts | Unit::Joules | Unit::Hertz, _) => (None, POSITIVE, NUMBER),
        };
        let in_range = |value: &f64| *value >= range.start && *value <= range.end;
        match value.filter(in_range).and_then(Level::new) {
            Some(level) => Ok((level, range)),
            None => Err(format!("{metric}{a_second} is {expected}, not {self}")),
        }
    }
}

const POSITIVE: Range<f64> = 0.0..f64::INFINITY;
const RATIO: &str = "a share: from \"0%\" to \"100%\", or a number from 0 to 1";
const BYTES: &str = "a size: as \"2GiB\", or a number of bytes";
const BYTES_PER_HOUR: &str = "a size that is added in an hour: as \"64MiB\", or a number of bytes";
const SECONDS: &str = "a duration: as \"500ms\", or a number of seconds";
const CELSIUS: &str = "a number of degrees Celsius";
const NUMBER: &str = "a number from 0 on";

impl fmt::Display for WrittenLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => f.write_str(&in_largest_unit(*bytes, &SIZE_UNITS)),
            Self::Milliseconds(time) => f.write_str(&in_largest_unit(*time, &DURATION_UNITS)),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for WrittenLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LevelVisitor;
        impl Visitor<'_> for LevelVisitor {
            type Value = WrittenLevel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a level: a percent (\"80%\"), a size (\"2GiB\"), a duration (\"30s\") or a number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<WrittenLevel, E> {
                Ok(WrittenLevel::Number(value as f64))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<WrittenLevel, E> {
                if !value.is_finite() {
                    return Err(E::invalid_value(Unexpected::Float(value), &self));
                }
                Ok(WrittenLevel::Number(value))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WrittenLevel, E> {
                WrittenLevel::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(LevelVisitor)
    }
}

impl Serialize for WrittenLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_f64(*number),
            _ => serializer.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for (text, expected) in [
            ("80%", Some(WrittenLevel::Percent(80.0))),
            ("99.5 %", Some(WrittenLevel::Percent(99.5))),
            ("-1%", None),
            ("nan%", None),
            ("1e9%", None),
            ("%", None),
            ("2GiB", Some(WrittenLevel::Bytes(2 << 30))),
            ("5m", Some(WrittenLevel::Milliseconds(300_000))),
            ("80", None),
            ("", None),
        ] {
            assert_eq!(WrittenLevel::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_level_is_written_so_that_it_reads_the_same() {
        for (metric, value, expected) in [
            (Metric::HostCpuBusy, 0.7, "70%"),
            (Metric::HostCpuBusy, 0.29, "29%"),
            (Metric::HostCpuBusy, 0.123_456_789_012, "0.123456789012"),
            (Metric::ServiceMemory, 1_610_612_736.0, "1536MiB"),
            (Metric::ServiceMemory, 0.5, "0.5"),
            (Metric::ServiceMemoryGrowth, 67_108_864.0, "64MiB"),
            (Metric::ServiceCpu, 1.5, "1.5"),
        ] {
            let level = Level::new(value).unwrap();
            let written = WrittenLevel::of(metric, level);
            assert_eq!(written.to_string(), expected);
            assert_eq!(written.in_unit_of(metric).unwrap().0, level);
        }
    }
}

//! Spans and points of time as they are written on the command line.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Longest span that makes sense for a process on one host.
const MAX_SPAN: Duration = Duration::from_secs(366 * 24 * 3_600);

/// Parses `10s`, `500ms`, `5m`, `1h30m`, `2d`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a span such as 10s, 500ms, 5m or 1h30m";
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|character: char| !character.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "" if text.trim() == number => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED.to_owned()),
        };
        let number = u64::from_str(number).ok().ok_or_else(|| EXPECTED.to_owned())?;
        let part = number.checked_mul(unit_ms).map(Duration::from_millis);
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MAX_SPAN)
            .ok_or_else(|| "longer than a year".to_owned())?;
        rest = after;
    }
    if total.is_zero() {
        return Err("must be more than nothing".to_owned());
    }
    Ok(total)
}

/// A point in time as written: absolute, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// This point in time.
    At(SystemTime),
    /// So long before now.
    Ago(Duration),
}

impl Moment {
    /// The point in time, seen from `now`.
    pub(crate) fn resolve(self, now: SystemTime) -> SystemTime {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => now.checked_sub(span).unwrap_or(UNIX_EPOCH),
        }
    }
}

/// Parses `2026-03-01T12:00:00Z` (RFC 3339), `@1772366400` (seconds since 1970) or `10m` (so long ago).
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    const EXPECTED: &str = "expected a time such as 2026-03-01T12:00:00Z, @1772366400, or 10m for ten minutes ago";
    let text = text.trim();
    if let Some(seconds) = text.strip_prefix('@') {
        let span = u64::from_str(seconds).ok().map(Duration::from_secs);
        let time = span
            .and_then(|span| UNIX_EPOCH.checked_add(span))
            .ok_or_else(|| EXPECTED.to_owned())?;
        return Ok(Moment::At(time));
    }
    if text.contains('-') {
        let time = prost_types::Timestamp::from_str(text)
            .ok()
            .ok_or_else(|| EXPECTED.to_owned())?;
        return SystemTime::try_from(time)
            .map(Moment::At)
            .ok()
            .ok_or_else(|| EXPECTED.to_owned());
    }
    parse_duration(text)
        .map(Moment::Ago)
        .ok()
        .ok_or_else(|| EXPECTED.to_owned())
}

/// A point in time as `2026-03-01T12:00:00Z`, to the second.
pub(crate) fn time_text(time: SystemTime) -> String {
    let mut time = prost_types::Timestamp::from(time);
    time.nanos = 0;
    time.to_string()
}

/// A span as people read it: `350 ms`, `9.8 s`, `12 min 3 s`, `3 h 12 min`, `4 d 2 h`.
pub(crate) fn span_text(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_parsed() {
        for (text, expected_ms) in [
            ("10", 10_000),
            (" 10s ", 10_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for text in [
            "",
            "s",
            "10x",
            "1.5s",
            "-1s",
            "0",
            "0s",
            "10 s",
            "1h30",
            "400d",
            "99999999999999999999s",
            "١s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_parsed() {
        let at = |seconds| Ok(Moment::At(UNIX_EPOCH + Duration::from_secs(seconds)));
        assert_eq!(parse_moment("@1772366400"), at(1_772_366_400));
        assert_eq!(parse_moment("2026-03-01T12:00:00Z"), at(1_772_366_400));
        assert_eq!(parse_moment("2026-03-01T13:00:00+01:00"), at(1_772_366_400));
        assert_eq!(parse_moment("10m"), Ok(Moment::Ago(Duration::from_secs(600))));
        for text in [
            "",
            "@",
            "@-1",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "12:00",
            "@99999999999999999999",
        ] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(
            Moment::Ago(Duration::from_secs(400)).resolve(now),
            UNIX_EPOCH + Duration::from_secs(600)
        );
    }

    #[test]
    fn spans_are_shown() {
        for (milliseconds, expected) in [
            (350, "350 ms"),
            (9_840, "9.8 s"),
            (723_000, "12 min 3 s"),
            (11_520_000, "3 h 12 min"),
            (352_800_000, "4 d 2 h"),
        ] {
            assert_eq!(span_text(Duration::from_millis(milliseconds)), expected);
        }
        assert_eq!(
            time_text(UNIX_EPOCH + Duration::from_millis(1_772_366_400_900)),
            "2026-03-01T12:00:00Z"
        );
    }
}

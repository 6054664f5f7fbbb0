//! Points in time as text, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_SECONDS: i64 = 86_400;
/// From 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of the 400 years after which the calendar repeats itself.
const ERA_DAYS: i64 = 146_097;

/// Nanoseconds since 1970, before it negative; clamped to what fits.
pub(crate) fn unix_nanos(time: SystemTime) -> i64 {
    let clamp = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

/// `2026-03-01T12:00:00.250Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let milliseconds = unix_nanos(time).rem_euclid(1_000_000_000) / 1_000_000;
    let (date, clock) = date_and_clock(time);
    format!("{date}T{clock}.{milliseconds:03}Z")
}

/// `2026-03-01 12:00:00 – 12:01:00 UTC`, with the second date where it is another.
pub(crate) fn range(start: SystemTime, end: SystemTime) -> String {
    let (start_date, start_clock) = date_and_clock(start);
    let (end_date, end_clock) = date_and_clock(end);
    if start_date == end_date {
        format!("{start_date} {start_clock} – {end_clock} UTC")
    } else {
        format!("{start_date} {start_clock} – {end_date} {end_clock} UTC")
    }
}

fn date_and_clock(time: SystemTime) -> (String, String) {
    let seconds = unix_nanos(time).div_euclid(1_000_000_000);
    let (year, month, day) = date_of_day(seconds.div_euclid(DAY_SECONDS));
    let second = seconds.rem_euclid(DAY_SECONDS);
    let date = format!("{year:04}-{month:02}-{day:02}");
    let clock = format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    (date, clock)
}

/// The Gregorian date of a day counted from 1970-01-01. Years are counted from March, so that the leap day is last.
fn date_of_day(day: i64) -> (i64, i64, i64) {
    let day = day + EPOCH_DAYS;
    let era = day.div_euclid(ERA_DAYS);
    let day_of_era = day.rem_euclid(ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> SystemTime {
        let span = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            UNIX_EPOCH - span
        } else {
            UNIX_EPOCH + span
        }
    }

    #[test]
    fn known_times() {
        // From `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(at(seconds)), text);
        }
        assert_eq!(rfc3339(at(1) + Duration::from_millis(250)), "1970-01-01T00:00:01.250Z");
    }

    #[test]
    fn consecutive_days_follow_each_other() {
        let mut previous = date_of_day(-1_000_000);
        for day in -999_999..1_000_000 {
            let (year, month, day_of_month) = date_of_day(day);
            assert!((year, month, day_of_month) > previous, "day {day}");
            assert!(
                (1..=12).contains(&month) && (1..=31).contains(&day_of_month),
                "day {day}"
            );
            previous = (year, month, day_of_month);
        }
    }

    #[test]
    fn far_times_do_not_panic() {
        let far = UNIX_EPOCH + Duration::from_secs(u64::MAX / 4);
        assert_eq!(unix_nanos(far), i64::MAX);
        assert!(range(UNIX_EPOCH - Duration::from_secs(1 << 40), far).ends_with("UTC"));
    }

    #[test]
    fn the_second_date_is_shown_where_it_differs() {
        assert_eq!(range(at(0), at(60)), "1970-01-01 00:00:00 – 00:01:00 UTC");
        assert_eq!(
            range(at(86_399), at(86_400)),
            "1970-01-01 23:59:59 – 1970-01-02 00:00:00 UTC"
        );
    }
}

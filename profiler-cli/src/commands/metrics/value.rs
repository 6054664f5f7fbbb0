//! Values as people read them.

use std::time::Duration;

use profiler_proto::v1::Unit;

use crate::{
    output::{bytes_text, thousands},
    span::span_text,
};

/// Bars from the least to the greatest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Beyond this a number is shown without its fraction.
const WHOLE_FROM: f64 = 100.0;

/// A value with its unit; `is_rate` if it is so much a second.
pub(in crate::commands) fn value_text(unit: Unit, value: f64, is_rate: bool) -> String {
    let per_second = if is_rate { "/s" } else { "" };
    match unit {
        Unit::Ratio => format!("{:.1} %", value * 100.0),
        Unit::Bytes => format!("{}{per_second}", bytes_text(whole(value))),
        Unit::BytesPerHour => format!("{}/h", bytes_text(whole(value))),
        Unit::Seconds if is_rate => format!("{value:.3} s/s"),
        Unit::Seconds => match Duration::try_from_secs_f64(value) {
            Ok(span) => span_text(span),
            Err(_) => format!("{value} s"),
        },
        Unit::Cores => format!("{value:.2} cores"),
        Unit::Celsius => format!("{value:.0} °C"),
        Unit::Watts => format!("{value:.1} W"),
        // So many a second are watts.
        Unit::Joules if is_rate => format!("{value:.1} W"),
        Unit::Joules => format!("{} J", number(value)),
        Unit::Hertz => format!("{} MHz{per_second}", number(value / 1e6)),
        Unit::Count | Unit::Unspecified => format!("{}{per_second}", number(value)),
    }
}

fn number(value: f64) -> String {
    if value < 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if value.fract() == 0.0 || value >= WHOLE_FROM {
        return thousands(whole(value));
    }
    format!("{value:.2}")
}

/// The nearest whole number that is not below zero.
fn whole(value: f64) -> u64 {
    value.round().max(0.0) as u64
}

/// A line of bars, one for each step; a step without a value is empty. The least value has the lowest bar, so a line that
/// stands still is low whatever its value.
pub(super) fn sparkline(values: &[(u32, f64)], steps: u32) -> String {
    let least = values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let most = values.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
    let mut line: Vec<char> = vec![' '; steps as usize];
    for (step, value) in values {
        let Some(place) = line.get_mut(*step as usize) else {
            continue;
        };
        let share = if most > least {
            (value - least) / (most - least)
        } else {
            0.0
        };
        let bar = (share * (BARS.len() - 1) as f64).round();
        *place = BARS.get(bar as usize).copied().unwrap_or(BARS[0]);
    }
    let line: String = line.into_iter().collect();
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_well() {
        for (unit, value, is_rate, expected) in [
            (Unit::Ratio, 0.4127, false, "41.3 %"),
            (Unit::Bytes, 1_572_864.0, false, "1.5 MiB"),
            (Unit::Bytes, 10.4, true, "10 B/s"),
            (Unit::BytesPerHour, 67_108_864.0, false, "64.0 MiB/h"),
            (Unit::Seconds, 754.0, false, "12 min 34 s"),
            (Unit::Seconds, 0.25, true, "0.250 s/s"),
            (Unit::Cores, 1.234, false, "1.23 cores"),
            (Unit::Count, 12_345.0, false, "12,345"),
            (Unit::Count, 0.5, true, "0.50/s"),
            (Unit::Count, 1234.56, true, "1,235/s"),
            (Unit::Celsius, 63.4, false, "63 °C"),
            (Unit::Joules, 350.0, true, "350.0 W"),
            (Unit::Hertz, 1_980_000_000.0, false, "1,980 MHz"),
            // What cannot be is shown as it is.
            (Unit::Count, -1.0, false, "-1"),
            (Unit::Count, f64::NAN, false, "NaN"),
            (Unit::Seconds, -1.0, false, "-1 s"),
            (Unit::Bytes, -1.0, false, "0 B"),
        ] {
            assert_eq!(value_text(unit, value, is_rate), expected);
        }
    }

    #[test]
    fn a_trend_shows_its_gaps() {
        assert_eq!(sparkline(&[(0, 1.0), (1, 8.0), (3, 4.5)], 6), "▁█ ▅");
        assert_eq!(sparkline(&[(0, 3.0), (1, 3.0)], 2), "▁▁");
        assert_eq!(sparkline(&[], 6), "");
        // Steps that cannot be, and values that are none.
        assert_eq!(sparkline(&[(9, 1.0), (0, f64::NAN), (1, 2.0)], 2), "▁█");
    }
}

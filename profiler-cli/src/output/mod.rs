//! What leaves the program: profiles in their formats, tables, progress, and where they go.

mod destination;
mod format;
mod progress;
mod table;

use std::{borrow::Cow, io};

use anstyle::{AnsiColor, Style};

pub(crate) use self::{
    destination::{Destination, file_stem},
    format::Format,
    progress::Progress,
    table::{Cell, Table},
};
use crate::error::CliError;

/// The word `error`.
pub(crate) const ERROR_STYLE: Style = AnsiColor::Red.on_default().bold();
/// Headings.
pub(crate) const HEADING_STYLE: Style = Style::new().bold();
/// What is well.
pub(crate) const GOOD_STYLE: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub(crate) const NOTE_STYLE: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(crate) const BAD_STYLE: Style = AnsiColor::Red.on_default();

/// To the upper left corner, and everything below it empty.
pub(crate) const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// A text from a target or the daemon on one line, without what steers a terminal. What is empty stays empty.
pub(crate) fn printable(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.is_empty() {
        Cow::Borrowed("")
    } else {
        profiler_profile::visible(text, max_bytes)
    }
}

/// Writes a JSON document to stdout.
pub(crate) fn write_json(document: &impl serde::Serialize) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    io::Write::write_all(&mut out, b"\n")?;
    Ok(())
}

/// A number with its thousands apart: `9,870`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share in percent to one decimal, rounded down so that only the whole is `100 %`; nothing of nothing is `-`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    if part >= whole {
        return "100 %".to_owned();
    }
    let tenths = u128::from(part) * 1_000 / u128::from(whole);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A size as `12.3 MiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while size >= 1_023.95 && unit + 1 < UNITS.len() {
        size /= 1_024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        for (part, whole, expected) in [
            (0, 0, "-"),
            (0, 5, "0.0 %"),
            (5, 5, "100 %"),
            (9_999, 10_000, "99.9 %"),
            (u64::MAX - 1, u64::MAX, "99.9 %"),
        ] {
            assert_eq!(percent(part, whole), expected);
        }
        for (bytes, expected) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
    }

    #[test]
    fn names_do_not_steer_the_terminal() {
        assert_eq!(printable("", 10), "");
        assert_eq!(printable("a\x1b[2J\u{202e}\n", 100), "a\\u{1b}[2J\\u{202e}\\n");
    }
}

//! Numbers as people read them.

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

/// A share in percent with `decimals` digits after the point, rounded down so that only the whole is `100`; the whole
/// and nothing have no decimals.
pub(crate) fn percent_down(part: u64, whole: u64, decimals: u32) -> String {
    if part == 0 || whole == 0 {
        return "0".to_owned();
    }
    if part >= whole {
        return "100".to_owned();
    }
    let scale = 10_u128.pow(decimals);
    let share = u128::from(part) * 100 * scale / u128::from(whole);
    let (units, fraction) = (share / scale, share % scale);
    if decimals == 0 {
        return units.to_string();
    }
    format!("{units}.{fraction:0width$}", width = decimals as usize)
}

/// A share in percent, rounded to so many decimals.
pub(crate) fn percent(part: u64, whole: u64, decimals: usize) -> String {
    format!("{:.decimals$} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// `1 sample`, `2 samples`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn only_the_whole_is_a_hundred_percent() {
        for (part, whole, decimals, text) in [
            (0, 0, 1, "0"),
            (0, 10, 1, "0"),
            (10, 10, 1, "100"),
            (9_999_999, 10_000_000, 1, "99.9"),
            (9_850, 9_870, 1, "99.7"),
            (1, 100_000, 1, "0.0"),
            (2, 3, 0, "66"),
            (u64::MAX - 1, u64::MAX, 2, "99.99"),
        ] {
            assert_eq!(percent_down(part, whole, decimals), text, "{part} of {whole}");
        }
    }
}

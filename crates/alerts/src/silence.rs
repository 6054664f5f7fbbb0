//! Silences: alerts that nobody is to be told of for a while.

use std::{collections::BTreeMap, fmt, time::SystemTime};

/// Most matchers of one silence.
const MAX_MATCHERS: usize = 16;
/// Longest name, value or comment in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// A silence's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SilenceId(pub u64);

impl fmt::Display for SilenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// Its value. A label that is missing has an empty one.
    pub value: String,
    /// Whether it must be another value instead.
    pub negated: bool,
}

/// Alerts that nobody is to be told of. They keep their states meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Its number.
    pub id: SilenceId,
    /// An alert is meant when all of them match.
    pub matchers: Vec<Matcher>,
    /// When it was made.
    pub made: SystemTime,
    /// Until when it holds.
    pub until: SystemTime,
    /// Who made it.
    pub who: String,
    /// Why.
    pub comment: String,
}

/// Why there can be no such silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidSilence {
    /// It has no matcher, or only ones that match every alert.
    MatchesEverything,
    /// It has too many matchers.
    TooManyMatchers,
    /// A text in it is too long.
    TextTooLong,
    /// It ends before it begins.
    Over,
    /// There are too many silences.
    TooMany,
}

impl fmt::Display for InvalidSilence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MatchesEverything => {
                f.write_str("a silence names at least one label and its value, or it would silence everything")
            }
            Self::TooManyMatchers => write!(f, "a silence has at most {MAX_MATCHERS} matchers"),
            Self::TextTooLong => write!(f, "labels, values and comments have at most {MAX_TEXT_BYTES} bytes"),
            Self::Over => f.write_str("a silence ends after it begins"),
            Self::TooMany => f.write_str("there are too many silences: end one first"),
        }
    }
}

impl std::error::Error for InvalidSilence {}

impl Silence {
    /// Whether it may be made.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), InvalidSilence> {
        let is_long = |text: &str| text.len() > MAX_TEXT_BYTES;
        if !self.matchers.iter().any(Matcher::is_particular) {
            return Err(InvalidSilence::MatchesEverything);
        }
        if self.matchers.len() > MAX_MATCHERS {
            return Err(InvalidSilence::TooManyMatchers);
        }
        let texts = self
            .matchers
            .iter()
            .flat_map(|matcher| [&matcher.label, &matcher.value]);
        if texts.chain([&self.who, &self.comment]).any(|text| is_long(text)) {
            return Err(InvalidSilence::TextTooLong);
        }
        if self.until <= self.made {
            return Err(InvalidSilence::Over);
        }
        Ok(())
    }

    /// Whether it means an alert with these labels.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels))
    }
}

impl Matcher {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.label).map_or("", String::as_str);
        (value == self.value) != self.negated
    }

    /// Whether it asks for a label with a value: one that asks for a missing label, or for none but one value, leaves
    /// nearly every alert.
    fn is_particular(&self) -> bool {
        !self.negated && !self.value.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn silence(matchers: &[(&str, &str, bool)]) -> Silence {
        Silence {
            id: SilenceId(1),
            matchers: matchers
                .iter()
                .map(|&(label, value, negated)| Matcher {
                    label: label.to_owned(),
                    value: value.to_owned(),
                    negated,
                })
                .collect(),
            made: UNIX_EPOCH,
            until: UNIX_EPOCH + Duration::from_secs(60),
            who: "ops".to_owned(),
            comment: String::new(),
        }
    }

    #[test]
    fn all_matchers_must_match() {
        let labels: BTreeMap<String, String> = [("alertname", "disk_full"), ("subject", "/srv")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (matchers, expected) in [
            (&[("alertname", "disk_full", false)][..], true),
            (&[("alertname", "disk_full", false), ("subject", "/", false)], false),
            (&[("alertname", "disk_full", false), ("subject", "/", true)], true),
            (&[("alertname", "disk", false)], false),
            (&[("team", "", false)], true),
            (&[("team", "", true)], false),
        ] {
            assert_eq!(silence(matchers).matches(&labels), expected, "{matchers:?}");
        }
    }

    #[test]
    fn what_would_silence_everything_is_refused() {
        for (matchers, expected) in [
            (&[][..], Err(InvalidSilence::MatchesEverything)),
            (&[("team", "", false)], Err(InvalidSilence::MatchesEverything)),
            (&[("alertname", "x", true)], Err(InvalidSilence::MatchesEverything)),
            (&[("alertname", "x", false), ("subject", "y", true)], Ok(())),
        ] {
            assert_eq!(silence(matchers).check(), expected, "{matchers:?}");
        }
        let mut over = silence(&[("alertname", "x", false)]);
        over.until = over.made;
        assert_eq!(over.check(), Err(InvalidSilence::Over));
        let mut long = silence(&[("alertname", "x", false)]);
        long.comment = "x".repeat(MAX_TEXT_BYTES + 1);
        assert_eq!(long.check(), Err(InvalidSilence::TextTooLong));
        let many = vec![("alertname", "x", false); MAX_MATCHERS + 1];
        assert_eq!(silence(&many).check(), Err(InvalidSilence::TooManyMatchers));
    }
}

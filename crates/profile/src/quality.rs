//! How far a profile can be trusted.

use std::{collections::BTreeMap, fmt};

use crate::{
    Measure, PageQuality, PythonQuality,
    number::{counted, percent_down, thousands},
    visible,
};

/// Reasons named in the quality line; the others are summed.
const NAMED_REASONS: usize = 6;
/// Longest reason that the quality line shows.
const MAX_REASON_BYTES: usize = 64;

/// How far a profile can be trusted: what was lost, and which stacks are whole.
///
/// Displays as the line that ends every report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Samples in the profile.
    pub samples: u64,
    /// Samples whose user stack reached a proven root, or that have no user part.
    pub rooted: u64,
    /// Samples by the reason for which their user stack stopped short of a proven root.
    pub stopped: BTreeMap<String, u64>,
    /// Samples known to be lost in the same time, by reason; for the whole host.
    pub lost: BTreeMap<String, u64>,
    /// User frames in the profile's samples.
    pub user_frames: u64,
    /// Those of them with a name.
    pub named_user_frames: u64,
    /// Samples whose kernel stack was cut or could not be read.
    pub incomplete_kernel_stacks: u64,
    /// How much of the Python stacks is there.
    pub python: PythonQuality,
    /// Of a profile of memory, how well its bytes are known; its samples are chosen pages.
    pub pages: Option<PageQuality>,
}

impl Quality {
    /// Adds what another profile knows of itself.
    pub fn merge(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.rooted = self.rooted.saturating_add(other.rooted);
        self.user_frames = self.user_frames.saturating_add(other.user_frames);
        self.named_user_frames = self.named_user_frames.saturating_add(other.named_user_frames);
        self.incomplete_kernel_stacks = self
            .incomplete_kernel_stacks
            .saturating_add(other.incomplete_kernel_stacks);
        add_reasons(&mut self.stopped, &other.stopped);
        add_reasons(&mut self.lost, &other.lost);
        self.python.merge(&other.python);
        match (&mut self.pages, &other.pages) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (ours @ None, theirs) => *ours = *theirs,
            (Some(_), None) => {}
        }
    }

    /// The same, each sample counted `factor` times: for samples that stand for a longer time than others.
    #[must_use]
    pub fn scaled(mut self, factor: u64) -> Self {
        let counts = [
            &mut self.samples,
            &mut self.rooted,
            &mut self.user_frames,
            &mut self.named_user_frames,
            &mut self.incomplete_kernel_stacks,
        ];
        let reasons = self.stopped.values_mut().chain(self.lost.values_mut());
        for count in counts.into_iter().chain(reasons) {
            *count = count.saturating_mul(factor);
        }
        self.python.scale(factor);
        self
    }

    /// The line that ends a report of only `shown` of the samples; of all of them, it is that of the quality itself.
    pub fn summary(&self, shown: u64) -> String {
        if shown >= self.samples || self.pages.is_some() {
            return self.to_string();
        }
        let (shown, all) = (thousands(shown), counted(self.samples, "sample"));
        format!("{shown} of {all} shown; of all: {self}")
    }

    /// What was lost. Of calls that are all taken, it is told how many there were.
    fn write_lost(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = sum(&self.lost);
        let is_exact = self.pages.is_some_and(|pages| pages.measure == Measure::Mapped);
        if is_exact {
            let (seen, taken) = (thousands(self.samples.saturating_add(total)), thousands(self.samples));
            write!(out, "{seen} seen = {taken} delivered + {} lost", thousands(total))?;
        } else if total == 0 {
            out.write_str("0 lost")?;
        } else {
            write!(out, "{} lost on the host", thousands(total))?;
        }
        if total == 0 {
            return Ok(());
        }
        write!(out, " ({})", reasons(&self.lost))
    }

    /// The share of samples with a proven root, from 0 to 1. None without samples.
    pub fn rooted_share(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.rooted as f64 / self.samples as f64)
    }

    /// The share of user frames with a name, from 0 to 1. None without user frames.
    pub fn named_share(&self) -> Option<f64> {
        (self.user_frames > 0).then(|| self.named_user_frames as f64 / self.user_frames as f64)
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pages) = &self.pages {
            write!(out, "{pages}, ")?;
        }
        if self.samples == 0 {
            if self.pages.is_none() {
                out.write_str("no samples, ")?;
            }
            return self.write_lost(out);
        }
        if self.pages.is_none() {
            write!(out, "{}, ", counted(self.samples, "sample"))?;
        }
        self.write_lost(out)?;
        write!(
            out,
            ", {} % with a proven root",
            percent_down(self.rooted, self.samples, 1)
        )?;
        let stopped = sum(&self.stopped);
        if stopped > 0 {
            write!(out, " ({} stopped: {})", thousands(stopped), reasons(&self.stopped))?;
        }
        if self.incomplete_kernel_stacks > 0 {
            let cut = counted(self.incomplete_kernel_stacks, "incomplete kernel stack");
            write!(out, ", {cut}")?;
        }
        if self.user_frames == 0 {
            out.write_str(", no user frames")?;
        } else {
            let named = percent_down(self.named_user_frames, self.user_frames, 0);
            write!(out, ", {named} % of user frames named")?;
        }
        if self.python.samples > 0 {
            write!(out, ", {}", self.python)?;
        }
        Ok(())
    }
}

pub(crate) fn add_reasons(counts: &mut BTreeMap<String, u64>, others: &BTreeMap<String, u64>) {
    for (reason, other) in others {
        match counts.get_mut(reason) {
            Some(count) => *count = count.saturating_add(*other),
            None => {
                counts.insert(reason.clone(), *other);
            }
        }
    }
}

pub(crate) fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0, |total, count| total.saturating_add(*count))
}

/// `12 no_row, 8 read_failed`: the most frequent first.
pub(crate) fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    sorted.sort_by(|left, right| right.1.cmp(left.1).then_with(|| left.0.cmp(right.0)));
    let (named, rest) = sorted.split_at(sorted.len().min(NAMED_REASONS));
    let mut parts: Vec<String> = named
        .iter()
        .map(|(reason, count)| format!("{} {}", thousands(**count), visible(reason, MAX_REASON_BYTES)))
        .collect();
    if !rest.is_empty() {
        let others = rest
            .iter()
            .fold(0_u64, |total, (_, count)| total.saturating_add(**count));
        parts.push(format!("{} for other reasons", thousands(others)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect()
    }

    fn python(samples: u64, with_frames: u64) -> PythonQuality {
        PythonQuality {
            samples,
            with_frames,
            stopped: counts(&[("no_thread_state", samples - with_frames)]),
        }
    }

    #[test]
    fn the_line_names_every_fact() {
        let quality = Quality {
            samples: 9_870,
            rooted: 9_850,
            stopped: counts(&[("read_failed", 8), ("no_row", 12)]),
            lost: counts(&[("ring_full", 0)]),
            user_frames: 1_000,
            named_user_frames: 979,
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "9,870 samples, 0 lost, 99.7 % with a proven root (20 stopped: 12 no_row, 8 read_failed), 97 % of user \
             frames named"
        );
        let quality = Quality {
            samples: 10,
            rooted: 10,
            python: python(8, 6),
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "10 samples, 0 lost, 100 % with a proven root, no user frames, 75.0 % of 8 Python samples with Python frames \
             (2 without or cut short: 2 no_thread_state)"
        );
    }

    #[test]
    fn calls_that_were_lost_are_counted_among_those_that_were_seen() {
        let pages = PageQuality {
            measure: Measure::Mapped,
            first_touch: 3 << 20,
            pages: 3,
            ..PageQuality::default()
        };
        let quality = Quality {
            samples: 3,
            rooted: 3,
            pages: Some(pages),
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "3.0 MiB asked for in 3 calls, 3 seen = 3 delivered + 0 lost, 100 % with a proven root, no user frames"
        );
        let lost = Quality {
            lost: counts(&[("over_quota", 1_000)]),
            pages: Some(PageQuality {
                measure: Measure::Mapped,
                ..PageQuality::default()
            }),
            ..Quality::default()
        };
        assert_eq!(
            lost.to_string(),
            "0.0 MiB asked for in 0 calls, 1,000 seen = 0 delivered + 1,000 lost (1,000 over_quota)"
        );
    }

    #[test]
    fn kernel_stacks_that_are_cut_are_told() {
        let quality = Quality {
            samples: 9,
            rooted: 9,
            incomplete_kernel_stacks: 2,
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "9 samples, 0 lost, 100 % with a proven root, 2 incomplete kernel stacks, no user frames"
        );
    }

    #[test]
    fn samples_of_a_lower_rate_weigh_more() {
        let quality = Quality {
            samples: 3,
            rooted: 2,
            stopped: counts(&[("no_row", 1)]),
            lost: counts(&[("busy", u64::MAX)]),
            user_frames: 5,
            named_user_frames: 4,
            incomplete_kernel_stacks: 1,
            python: python(2, 1),
            pages: None,
        };
        let expected = Quality {
            samples: 6,
            rooted: 4,
            stopped: counts(&[("no_row", 2)]),
            lost: counts(&[("busy", u64::MAX)]),
            user_frames: 10,
            named_user_frames: 8,
            incomplete_kernel_stacks: 2,
            python: python(4, 2),
            pages: None,
        };
        assert_eq!(quality.scaled(2), expected);
    }

    #[test]
    fn a_part_of_the_samples_is_told_as_one() {
        let quality = Quality {
            samples: 1_000,
            rooted: 1_000,
            ..Quality::default()
        };
        assert_eq!(quality.summary(1_000), quality.to_string());
        let part = quality.summary(7);
        assert_eq!(part, format!("7 of 1,000 samples shown; of all: {quality}"));
    }

    #[test]
    fn no_samples_says_so() {
        assert_eq!(Quality::default().to_string(), "no samples, 0 lost");
        let quality = Quality {
            lost: counts(&[("ring_full", 1_200), ("busy", 3)]),
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "no samples, 1,203 lost on the host (1,200 ring_full, 3 busy)"
        );
        assert_eq!((quality.rooted_share(), quality.named_share()), (None, None));
    }

    #[test]
    fn whole_profiles_and_kernel_threads() {
        let quality = Quality {
            samples: 1,
            rooted: 1,
            ..Quality::default()
        };
        assert_eq!(
            quality.to_string(),
            "1 sample, 0 lost, 100 % with a proven root, no user frames"
        );
        assert_eq!(quality.rooted_share(), Some(1.0));
    }

    #[test]
    fn many_and_hostile_reasons_stay_short() {
        let stopped = (0..1_000)
            .map(|number| (format!("\x1b[2J{number:04}{}", "x".repeat(10_000)), 1))
            .collect();
        let line = Quality {
            samples: 1_000,
            stopped,
            ..Quality::default()
        }
        .to_string();
        assert!(line.len() < 1_000 && !line.contains('\x1b'), "{line}");
        assert!(line.contains("994 for other reasons"), "{line}");
    }

    #[test]
    fn merging_adds_and_saturates() {
        let mut quality = Quality {
            samples: 1,
            rooted: u64::MAX,
            lost: counts(&[("busy", 1)]),
            ..Quality::default()
        };
        quality.merge(&Quality {
            samples: 2,
            rooted: 1,
            lost: counts(&[("busy", 2), ("late", 1)]),
            stopped: counts(&[("no_row", 1)]),
            user_frames: 5,
            named_user_frames: 4,
            incomplete_kernel_stacks: 6,
            python: python(3, 1),
            pages: None,
        });
        assert_eq!(quality.python, python(3, 1));
        assert_eq!(quality.incomplete_kernel_stacks, 6);
        assert_eq!((quality.samples, quality.rooted), (3, u64::MAX));
        assert_eq!(quality.lost, counts(&[("busy", 3), ("late", 1)]));
        assert_eq!(quality.stopped, counts(&[("no_row", 1)]));
        assert_eq!(quality.named_share(), Some(0.8));
    }
}

//! How much of the Python stacks of a profile is there.

use std::{collections::BTreeMap, fmt};

use crate::{
    number::{percent_down, thousands},
    quality::{add_reasons, reasons, sum},
};

/// How many samples of Python processes have Python frames, and why the others have none.
///
/// Displays as a part of the quality line; as nothing without samples of Python processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonQuality {
    /// Samples of processes that run Python.
    pub samples: u64,
    /// Those of them with at least one Python frame.
    pub with_frames: u64,
    /// Samples whose Python frames are missing, or end before the outermost, by reason.
    pub stopped: BTreeMap<String, u64>,
}

impl PythonQuality {
    /// Adds what another profile knows of itself.
    pub fn merge(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.with_frames = self.with_frames.saturating_add(other.with_frames);
        add_reasons(&mut self.stopped, &other.stopped);
    }

    pub(crate) fn scale(&mut self, factor: u64) {
        let counts = [&mut self.samples, &mut self.with_frames];
        for count in counts.into_iter().chain(self.stopped.values_mut()) {
            *count = count.saturating_mul(factor);
        }
    }
}

impl fmt::Display for PythonQuality {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.samples == 0 {
            return Ok(());
        }
        let share = percent_down(self.with_frames, self.samples, 1);
        let samples = thousands(self.samples);
        let plural = if self.samples == 1 { "" } else { "s" };
        write!(out, "{share} % of {samples} Python sample{plural} with Python frames")?;
        match sum(&self.stopped) {
            0 => Ok(()),
            stopped => write!(
                out,
                " ({} without or cut short: {})",
                thousands(stopped),
                reasons(&self.stopped)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(samples: u64, with_frames: u64, stopped: &[(&str, u64)]) -> PythonQuality {
        PythonQuality {
            samples,
            with_frames,
            stopped: stopped
                .iter()
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn the_share_and_the_reasons_are_told() {
        let check = |quality: PythonQuality, expected: &str| assert_eq!(quality.to_string(), expected);
        check(PythonQuality::default(), "");
        check(quality(1, 1, &[]), "100 % of 1 Python sample with Python frames");
        check(
            quality(9_870, 9_180, &[("depth_limit", 40), ("no_thread_state", 690)]),
            "93.0 % of 9,870 Python samples with Python frames (730 without or cut short: 690 no_thread_state, 40 \
             depth_limit)",
        );
    }

    #[test]
    fn merging_and_scaling_add_up() {
        let mut sum = quality(3, 2, &[("no_thread_state", 1)]);
        sum.merge(&quality(4, 4, &[("depth_limit", 1)]));
        sum.scale(2);
        assert_eq!(sum, quality(14, 12, &[("depth_limit", 2), ("no_thread_state", 2)]));
        sum.scale(u64::MAX);
        assert_eq!((sum.samples, sum.stopped["depth_limit"]), (u64::MAX, u64::MAX));
    }
}

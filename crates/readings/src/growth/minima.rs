//! The least value of each minute, for a few hours.

use std::{collections::VecDeque, time::Duration};

/// Minutes that are kept.
pub(super) const KEPT_MINUTES: usize = 360;
/// Values are kept in units of so many bytes: four bytes hold sixteen terabytes then.
const UNIT_BYTES: u64 = 4096;
/// In place of a minute without a value.
const MISSING: u32 = u32::MAX;
const MINUTE: u64 = 60;

/// The minute that a moment belongs to.
pub(super) fn minute_of(at: Duration) -> u64 {
    at.as_secs() / MINUTE
}

/// The least value of each minute that is over, the oldest first, and of the one that is not.
#[derive(Clone, Debug, Default)]
pub(super) struct Minima {
    /// One after the other up to `newest`; never begins or ends with a missing one.
    minutes: VecDeque<u32>,
    /// The minute of the last of them.
    newest: u64,
    current: Option<(u64, u32)>,
}

impl Minima {
    /// Takes a value. One of a minute that is over is late, and left out.
    pub(super) fn note(&mut self, at: Duration, bytes: u64) {
        let minute = minute_of(at);
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(MISSING).min(MISSING - 1);
        match &mut self.current {
            Some((current, least)) if *current == minute => *least = units.min(*least),
            Some((current, _)) if *current > minute => {}
            _ => {
                self.close(minute);
                self.current = Some((minute, units));
            }
        }
    }

    /// Puts the current minute to the others if it is over, and drops what is too old.
    pub(super) fn close(&mut self, now: u64) {
        if let Some((minute, least)) = self.current.take_if(|(minute, _)| *minute < now) {
            let gap = if self.minutes.is_empty() {
                0
            } else {
                usize::try_from(minute.saturating_sub(self.newest).saturating_sub(1)).unwrap_or(usize::MAX)
            };
            if gap >= KEPT_MINUTES {
                self.minutes.clear();
            } else {
                self.minutes.extend(std::iter::repeat_n(MISSING, gap));
            }
            self.minutes.push_back(least);
            self.newest = minute;
        }
        let oldest = now.saturating_sub(KEPT_MINUTES as u64);
        while !self.minutes.is_empty() && (self.oldest() < oldest || self.minutes.front() == Some(&MISSING)) {
            self.minutes.pop_front();
        }
    }

    fn oldest(&self) -> u64 {
        (self.newest + 1).saturating_sub(self.minutes.len() as u64)
    }

    /// The minutes until the one before `now`, the oldest first; those without a value are there, and are none.
    pub(super) fn until(&self, now: u64) -> Vec<Option<f64>> {
        if self.minutes.is_empty() {
            return Vec::new();
        }
        let silent = usize::try_from(now.saturating_sub(self.newest + 1)).unwrap_or(KEPT_MINUTES);
        let value = |units: &u32| (*units != MISSING).then(|| f64::from(*units) * UNIT_BYTES as f64);
        let minutes = self.minutes.iter().map(value);
        minutes
            .chain(std::iter::repeat_n(None, silent.min(KEPT_MINUTES)))
            .collect()
    }

    /// When a value was last taken.
    pub(super) fn last_minute(&self) -> u64 {
        self.current.map_or(self.newest, |(minute, _)| minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_minute_keeps_its_least_value() {
        let mut minima = Minima::default();
        for (second, pages) in [(60, 5), (61, 3), (119, 9), (120, 7), (59, 1), (250, 8)] {
            minima.note(at(second), pages * UNIT_BYTES);
        }
        assert_eq!(minima.last_minute(), 4);
        let kept = |minima: &Minima, now| -> Vec<Option<u64>> {
            let values = minima.until(now).into_iter();
            values
                .map(|value| value.map(|bytes| bytes as u64 / UNIT_BYTES))
                .collect()
        };
        assert_eq!(kept(&minima, 3), [Some(3), Some(7)], "what is late is left out");
        minima.close(4);
        assert_eq!(kept(&minima, 4), [Some(3), Some(7), None]);
        minima.close(5);
        assert_eq!(kept(&minima, 7), [Some(3), Some(7), None, Some(8), None, None]);
        minima.close(4 + KEPT_MINUTES as u64);
        assert_eq!(
            kept(&minima, 6),
            [Some(8), None],
            "what is too old goes, with the gap after it"
        );
        minima.close(10_000);
        assert_eq!(kept(&minima, 10_000), [None; 0]);
    }

    #[test]
    fn it_stays_small_whatever_comes() {
        let mut minima = Minima::default();
        for minute in 0..2_000 {
            minima.note(at(60 * minute), u64::MAX);
        }
        assert!(minima.minutes.len() <= KEPT_MINUTES && minima.minutes.capacity() < 2 * KEPT_MINUTES);
        minima.note(at(u64::MAX), 0);
        minima.close(u64::MAX);
        assert!(minima.until(u64::MAX).len() <= 2 * KEPT_MINUTES);
    }
}

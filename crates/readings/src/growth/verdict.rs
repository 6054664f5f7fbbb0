//! From the least values of minutes to a verdict.
//!
//! Memory that is let go comes back; what a minute never goes below is held. A block of several minutes goes below that
//! again, so that swings of an allocator or a garbage collector that are shorter than a block are gone, and with them most of
//! what neighbouring minutes have in common: the interval of a slope over blocks may take them for independent. Swings that
//! are longer than a block are not, and what rises only for a while is no growth. So the shape must be that of growth, too:
//! it rises in both halves of the time, the newer not much slower than the older (a start that levels off), not in one leap,
//! and to where it never was before (what comes round again). What rises for hours and falls for hours cannot be told from
//! growth by any of that while it rises: a rise counts only if it is no less than some share of all memory in an hour.

use std::time::Duration;

use super::slope::{Slope, slope, slope_value};

/// Time over which a slope is sought, as so many blocks of so many minutes.
#[derive(Clone, Copy, Debug)]
struct Window {
    blocks: usize,
    minutes: usize,
}

/// The longest first: what holds for long is surer than what holds for half an hour.
const WINDOWS: [Window; 4] = [
    Window {
        blocks: 18,
        minutes: 20,
    },
    Window {
        blocks: 12,
        minutes: 15,
    },
    Window { blocks: 12, minutes: 5 },
    Window { blocks: 7, minutes: 4 },
];
/// Part of the slope that each half of the time must have.
const OLDER_SHARE: f64 = 0.4;
const NEWER_SHARE: f64 = 0.5;
/// The newer half against the older: what levels off is slower by then.
const LEVELS_OFF: f64 = 0.5;
/// Largest part of all that it rose which it may rise from one block to the next.
const LARGEST_LEAP: f64 = 0.5;
/// Part of the slope that its lower end must be: an interval that is wider than that is too vague.
const VAGUE: f64 = 0.25;
/// Part of all that it rose which must be above where it ever was before.
const NEW_SHARE: f64 = 0.5;
/// Slower than this an hour is steady: so many bytes, and such a share of all.
const SLOWEST_BYTES: f64 = 6e6;
const SLOWEST_SHARE: f64 = 0.03;
/// A verdict must have held in one of so many minutes before, too.
const LOOK_BACK: usize = 2;

/// What becomes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trend {
    /// There are not enough minutes, or too many are missing.
    NotEnoughData,
    /// Neither of the others, or too slowly to matter.
    Steady,
    /// More and more of it is held.
    Growing,
    /// Less and less of it is held.
    Shrinking,
}

impl Trend {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotEnoughData => "not_enough_data",
            Self::Steady => "steady",
            Self::Growing => "growing",
            Self::Shrinking => "shrinking",
        }
    }
}

/// How fast memory becomes more, in bytes an hour; less where negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The estimate.
    pub value: f64,
    /// The ends of its 99 % interval.
    pub low: f64,
    /// See [`Self::low`].
    pub high: f64,
    /// The time over which that was so, the last until now.
    pub span: Duration,
}

/// What is found of memory over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// In a word.
    pub trend: Trend,
    /// How fast; none without enough data.
    pub pace: Option<Pace>,
    /// Bytes an hour by which it grows for certain: the lower end of the interval where the shape is that of growth, and
    /// otherwise zero. However slow.
    pub certain: f64,
    /// For how long it was followed.
    pub followed: Duration,
}

impl Verdict {
    /// Of what was followed for so many minutes, and not for long enough.
    fn unknown(minutes: usize) -> Self {
        Self {
            trend: Trend::NotEnoughData,
            pace: None,
            certain: 0.0,
            followed: span(minutes),
        }
    }
}

/// The verdict on the least values of minutes, in bytes, the newest last.
pub(super) fn verdict(minutes: &[Option<f64>]) -> Verdict {
    let newest = verdict_at(minutes);
    let before = (1..=LOOK_BACK).map(|back| verdict_at(&minutes[..minutes.len().saturating_sub(back)]));
    let (mut was_so, mut certain_before) = (newest.trend == Trend::NotEnoughData, 0.0_f64);
    for before in before {
        was_so |= before.trend == newest.trend;
        certain_before = certain_before.max(before.certain);
    }
    Verdict {
        trend: if was_so { newest.trend } else { Trend::Steady },
        certain: newest.certain.min(certain_before),
        ..newest
    }
}

fn verdict_at(minutes: &[Option<f64>]) -> Verdict {
    let mut verdict = Verdict::unknown(minutes.len());
    for window in WINDOWS {
        let Some(Blocks { points, earlier }) = window.blocks_of(minutes) else {
            continue;
        };
        let Some(slope) = slope(&points) else { continue };
        let pace = Pace {
            value: slope.value,
            low: slope.low,
            high: slope.high,
            span: span(window.blocks * window.minutes),
        };
        let certain = certain_growth(&points, &earlier, slope);
        let (falling, earlier_falling) = (mirrored(&points), negated(&earlier));
        let certain_fall = certain_growth(&falling, &earlier_falling, reversed(slope));
        let slowest = SLOWEST_BYTES.max(SLOWEST_SHARE * middle(&points));
        let is_fast = slope.value.abs() >= slowest;
        let trend = match (certain > 0.0, certain_fall > 0.0) {
            (true, _) if is_fast => Trend::Growing,
            (_, true) if is_fast => Trend::Shrinking,
            _ => Trend::Steady,
        };
        // The longest time tells how steady it is, and any other only that it is not.
        if trend != Trend::Steady || verdict.pace.is_none() {
            verdict.trend = trend;
            verdict.pace = Some(pace);
        }
        verdict.certain = verdict.certain.max(certain);
        if trend != Trend::Steady {
            break;
        }
    }
    verdict
}

/// The least values of blocks of minutes.
#[derive(Debug)]
struct Blocks {
    /// Of a window, with the hours at which they are.
    points: Vec<(f64, f64)>,
    /// Of the blocks before it that are whole, since less than a block may lie above any.
    earlier: Vec<f64>,
}

impl Window {
    /// The blocks of this window; none if one of them has no value.
    fn blocks_of(self, minutes: &[Option<f64>]) -> Option<Blocks> {
        let start = minutes.len().checked_sub(self.blocks * self.minutes)?;
        let (before, within) = minutes.split_at(start);
        let least = |block: &[Option<f64>]| block.iter().flatten().copied().reduce(f64::min);
        let values: Option<Vec<f64>> = within.chunks(self.minutes).map(least).collect();
        let hours = |block: usize| (block * self.minutes) as f64 / 60.0;
        let points = values?.into_iter().enumerate();
        Some(Blocks {
            points: points.map(|(block, value)| (hours(block), value)).collect(),
            earlier: before.rchunks_exact(self.minutes).filter_map(least).collect(),
        })
    }
}

/// The lower end of a slope of these points if they have the shape of growth, and otherwise zero. `earlier` is what was before
/// them.
fn certain_growth(points: &[(f64, f64)], earlier: &[f64], slope: Slope) -> f64 {
    let has_shape = || {
        let (Some((_, first)), Some((_, last))) = (points.first(), points.last()) else {
            return false;
        };
        let risen = last - first;
        let leaps = points.windows(2).map(|pair| pair[1].1 - pair[0].1);
        let highest_before = earlier.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let half = points.len() / 2;
        // Both have the point in the middle: a leap lies in one of them.
        let halves = slope_value(&points[..=half]).zip(slope_value(&points[half..]));
        let rises = |(older, newer): (f64, f64)| {
            older >= OLDER_SHARE * slope.value && newer >= NEWER_SHARE * slope.value && newer >= LEVELS_OFF * older
        };
        risen > 0.0
            && halves.is_some_and(rises)
            && leaps.fold(0.0, f64::max) <= LARGEST_LEAP * risen
            && last - highest_before >= NEW_SHARE * risen
    };
    if slope.low > 0.0 && slope.low >= VAGUE * slope.value && has_shape() {
        slope.low
    } else {
        0.0
    }
}

/// The same upside down.
fn mirrored(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|(time, value)| (*time, -value)).collect()
}

fn negated(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| -value).collect()
}

fn reversed(slope: Slope) -> Slope {
    Slope {
        value: -slope.value,
        low: -slope.high,
        high: -slope.low,
    }
}

/// The value that half of the points do not exceed.
fn middle(points: &[(f64, f64)]) -> f64 {
    let mut values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn span(minutes: usize) -> Duration {
    Duration::from_secs(60 * minutes as u64)
}

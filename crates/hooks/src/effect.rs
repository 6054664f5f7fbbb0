//! What changed: the reading that triggered a hook, before and after it.
//!
//! In: readings of both times. Out: the difference of their means with the interval that it lies in, by the test that
//! profiles are compared with. It is what changed, not what the hook caused: a load that rises meanwhile is in it too.

use std::time::Duration;

use profiler_alerts::Comparison;
use profiler_profile::compare::{CONFIDENCE, Difference, MIN_BLOCKS, Sample};
use profiler_readings::{Metric, Subject};

/// Shorter blocks of readings depend on each other.
const MIN_BLOCK: Duration = Duration::from_secs(2);
/// More blocks tell no more.
const MAX_BLOCKS: usize = 32;
/// A difference of less than this part of what was there before is none that matters: memory that stands still has no noise,
/// and a page more would be certain.
const MIN_RELATIVE: f64 = 0.01;

/// The reading that a run is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// What is read; of a counter, its rate a second.
    pub metric: Metric,
    /// Of whom.
    pub subject: Subject,
    /// Which side is the wrong one.
    pub wrong: Comparison,
}

/// What was seen before or after.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The watched reading, each value with when it was read, since the host was started.
    pub readings: Vec<(Duration, f64)>,
    /// Resident memory of the target at the end, where it has any.
    pub resident_bytes: Option<u64>,
}

/// A snapshot as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// The mean of the readings; none without readings.
    pub mean: Option<f64>,
    /// Means of blocks of them, in the order of time.
    pub blocks: Vec<f64>,
    /// Resident memory of the target at the end.
    pub resident_bytes: Option<u64>,
}

/// Which way a reading changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Certainly to the right side.
    Better,
    /// Certainly to the wrong side.
    Worse,
    /// It cannot be told from chance, or is too small to matter.
    Unclear,
    /// There are too few readings to tell.
    Unmeasured,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Better, Self::Worse, Self::Unclear, Self::Unmeasured];

    /// Its name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unclear => "unclear",
            Self::Unmeasured => "unmeasured",
        }
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// The mean before; none without readings.
    pub before: Option<f64>,
    /// The mean after.
    pub after: Option<f64>,
    /// Ends of the interval that the difference, after less before, lies in; none if there are too few readings.
    pub interval: Option<(f64, f64)>,
    /// Which way it changed.
    pub verdict: Verdict,
}

impl Side {
    /// Of a snapshot. Values that are no numbers are left out.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut readings: Vec<(Duration, f64)> = snapshot.readings.clone();
        readings.retain(|(_, value)| value.is_finite());
        readings.sort_by_key(|(at, _)| *at);
        let values: Vec<f64> = readings.iter().map(|(_, value)| *value).collect();
        let span = match (readings.first(), readings.last()) {
            (Some((first, _)), Some((last, _))) => last.saturating_sub(*first),
            _ => Duration::ZERO,
        };
        let wanted = span.as_nanos() / MIN_BLOCK.as_nanos();
        let wanted = usize::try_from(wanted).unwrap_or(MAX_BLOCKS).clamp(1, MAX_BLOCKS);
        Self {
            mean: mean(&values),
            blocks: blocks(&values, values.len().div_ceil(wanted)),
            resident_bytes: snapshot.resident_bytes,
        }
    }
}

/// Means of so many values each. What is left is a block of its own only if it is half as many.
fn blocks(values: &[f64], each: usize) -> Vec<f64> {
    let each = each.max(1);
    let rest = values.len() % each;
    let whole = if 2 * rest < each {
        values.len() - rest
    } else {
        values.len()
    };
    values[..whole].chunks(each).filter_map(mean).collect()
}

/// The mean; none of nothing, and none that is too large for a number.
fn mean(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    mean.is_finite().then_some(mean)
}

/// Readings are not counted, so that the counting adds no noise of its own.
fn sample(mean: f64, values: &[f64]) -> Sample<'_> {
    Sample {
        mean,
        values,
        unit: 0.0,
    }
}

impl Effect {
    /// The effect between two sides of a reading of which this side is the wrong one.
    pub fn between(before: &Side, after: &Side, wrong: Comparison) -> Self {
        let mut effect = Self {
            before: before.mean,
            after: after.mean,
            interval: None,
            verdict: Verdict::Unmeasured,
        };
        let (Some(first), Some(second)) = (before.mean, after.mean) else {
            return effect;
        };
        if before.blocks.len() < MIN_BLOCKS || after.blocks.len() < MIN_BLOCKS {
            return effect;
        }
        let difference = Difference::between(&sample(first, &before.blocks), &sample(second, &after.blocks));
        let margin = difference.margin(CONFIDENCE);
        let (low, high) = (difference.value - margin, difference.value + margin);
        if !low.is_finite() || !high.is_finite() {
            return effect;
        }
        let floor = MIN_RELATIVE * first.abs();
        let (rose, fell) = (low > floor, high < -floor);
        effect.interval = Some((low, high));
        effect.verdict = match (wrong, rose, fell) {
            (_, false, false) => Verdict::Unclear,
            (Comparison::Above, true, _) | (Comparison::Below, false, true) => Verdict::Worse,
            (Comparison::Below, true, _) | (Comparison::Above, false, true) => Verdict::Better,
        };
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(values: impl IntoIterator<Item = f64>) -> Side {
        let readings = values.into_iter().zip(0_u64..);
        Side::of(&Snapshot {
            readings: readings
                .map(|(value, second)| (Duration::from_secs(second), value))
                .collect(),
            resident_bytes: None,
        })
    }

    /// A value that wobbles by up to a fifth of itself, and how it is judged against a hundred.
    fn judged(after: f64, wrong: Comparison) -> Verdict {
        let wobbly = |value: f64| (0..60).map(move |second| value * (1.0 + 0.1 * f64::from(second * 7 % 5 - 2)));
        Effect::between(&side(wobbly(100.0)), &side(wobbly(after)), wrong).verdict
    }

    #[test]
    fn worse_is_wholly_on_the_wrong_side() {
        for (after, above, below) in [
            (200.0, Verdict::Worse, Verdict::Better),
            (50.0, Verdict::Better, Verdict::Worse),
            (101.0, Verdict::Unclear, Verdict::Unclear),
            (99.0, Verdict::Unclear, Verdict::Unclear),
        ] {
            assert_eq!(judged(after, Comparison::Above), above, "{after}");
            assert_eq!(judged(after, Comparison::Below), below, "{after}");
        }
    }

    #[test]
    fn a_page_more_of_what_stands_still_does_not_matter() {
        let effect = |after: f64| Effect::between(&side([1e9; 60]), &side([after; 60]), Comparison::Above);
        assert_eq!(effect(1e9 + 4096.0).verdict, Verdict::Unclear);
        assert_eq!(effect(1e9).verdict, Verdict::Unclear);
        let more = effect(1.1e9);
        assert_eq!(
            (more.verdict, more.before, more.after),
            (Verdict::Worse, Some(1e9), Some(1.1e9))
        );
        let (low, high) = more.interval.expect("enough readings");
        assert!((low - 1e8).abs() < 1.0 && (high - 1e8).abs() < 1.0, "{low} {high}");
        // What was nothing before is worse with anything.
        let from_nothing = Effect::between(&side([0.0; 60]), &side([1.0; 60]), Comparison::Above);
        assert_eq!(from_nothing.verdict, Verdict::Worse);
    }

    #[test]
    fn too_few_readings_tell_nothing() {
        for (before, after) in [(0, 60), (60, 0), (60, 5), (5, 60), (1, 1)] {
            let effect = Effect::between(&side(vec![1.0; before]), &side(vec![100.0; after]), Comparison::Above);
            assert_eq!(
                (effect.verdict, effect.interval),
                (Verdict::Unmeasured, None),
                "{before} {after}"
            );
        }
        assert_eq!(side([]).mean, None);
    }

    #[test]
    fn what_is_no_number_is_left_out_and_nothing_overflows() {
        let holed = side((0..60).map(|second| if second % 2 == 0 { f64::NAN } else { 3.0 }));
        assert_eq!(holed.mean.map(f64::round), Some(3.0));
        assert_eq!(side([f64::INFINITY; 60]).mean, None);
        let huge = Effect::between(&side([f64::MAX; 60]), &side([-f64::MAX; 60]), Comparison::Above);
        assert_eq!(huge.verdict, Verdict::Unmeasured);
    }

    #[test]
    fn readings_are_joined_to_blocks() {
        // A minute of seconds: no block is shorter than two.
        assert_eq!(side([1.0; 61]).blocks.len(), 20);
        assert_eq!(side([1.0; 3600]).blocks.len(), 32);
        assert_eq!(side([1.0; 1]).blocks, [1.0]);
        assert_eq!(blocks(&[1.0, 3.0, 5.0, 7.0, 100.0], 3), [3.0, 53.5]);
        assert_eq!(blocks(&[1.0, 3.0, 5.0, 7.0, 100.0], 4), [4.0]);
        assert_eq!(blocks(&[], 0), [0.0; 0]);
    }

    #[test]
    fn readings_are_put_in_the_order_of_time() {
        let second = Duration::from_secs;
        let shuffled = Snapshot {
            readings: vec![(second(8), 4.0), (second(0), 1.0), (second(4), 3.0), (second(2), 2.0)],
            resident_bytes: Some(7),
        };
        let side = Side::of(&shuffled);
        assert_eq!((side.blocks, side.resident_bytes), (vec![1.0, 2.0, 3.0, 4.0], Some(7)));
    }
}

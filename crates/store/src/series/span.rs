//! Values over a span, in steps.

use std::time::Duration;

use super::line::{Line, increase};

/// A span of steady time, cut into steps of equal length. A value at the end of a step belongs to it, so that the last step
/// has the latest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The span begins just after this.
    pub from: Duration,
    /// Its last moment.
    pub to: Duration,
    /// Length of a step; not zero.
    pub step: Duration,
}

impl Steps {
    /// How many there are; none if the span is empty, or a step is.
    pub fn count(&self) -> u64 {
        let span = self.to.saturating_sub(self.from).as_nanos();
        match self.step.as_nanos() {
            0 => 0,
            step => u64::try_from(span.div_ceil(step)).unwrap_or(u64::MAX),
        }
    }

    /// The step that a moment belongs to.
    fn index(&self, at: Duration) -> Option<u32> {
        let since = at.checked_sub(self.from)?.as_nanos().checked_sub(1)?;
        u32::try_from(since / self.step.as_nanos().max(1)).ok()
    }
}

/// Values of one step. Of a counter they are rates, and the mean is over time, whatever the values' distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Number of the step, from 0 on.
    pub index: u32,
    /// Values in it; never 0.
    pub count: u32,
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
}

/// A series over a span. Steps without a value are left out: nothing is made up for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Range {
    /// Steps with values.
    pub buckets: Vec<Bucket>,
    /// The quantiles that were asked for, of all values in the span (nearest rank); none without values.
    pub quantiles: Vec<f64>,
}

/// A value that stands for some time.
#[derive(Clone, Copy, Debug)]
struct Weighted {
    at: Duration,
    value: f64,
    weight: f64,
}

/// The values of a series over a span.
pub(super) fn range(line: &Line, steps: Steps, quantiles: &[f64]) -> Range {
    if steps.count() == 0 {
        return Range::default();
    }
    let values = weighted(line, steps);
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut weight = 0.0;
    for value in &values {
        let Some(index) = steps.index(value.at) else { continue };
        match buckets.last_mut().filter(|bucket| bucket.index == index) {
            Some(bucket) => {
                bucket.count += 1;
                bucket.min = bucket.min.min(value.value);
                bucket.max = bucket.max.max(value.value);
                bucket.last = value.value;
                weight += value.weight;
                bucket.mean += (value.value - bucket.mean) * value.weight / weight;
            }
            None => {
                weight = value.weight;
                buckets.push(Bucket {
                    index,
                    count: 1,
                    min: value.value,
                    mean: value.value,
                    max: value.value,
                    last: value.value,
                });
            }
        }
    }
    let mut sorted: Vec<f64> = values.iter().map(|value| value.value).collect();
    sorted.sort_by(f64::total_cmp);
    let quantiles = quantiles.iter().filter_map(|share| quantile(&sorted, *share));
    Range {
        quantiles: quantiles.collect(),
        buckets,
    }
}

/// The values themselves; of a counter the rate since the value before, which may lie before the span.
fn weighted(line: &Line, steps: Steps) -> Vec<Weighted> {
    // What is exactly at the beginning belongs to the step before.
    let (before, values) = line.values(steps.from + Duration::from_nanos(1), steps.to);
    if !line.is_counter() {
        let even = |(at, value)| Weighted { at, value, weight: 1.0 };
        return values.into_iter().map(even).collect();
    }
    let mut before = before;
    let mut rates = Vec::with_capacity(values.len());
    for (at, value) in values {
        if let Some((then, counted)) = before.replace((at, value)) {
            let weight = at.saturating_sub(then).as_secs_f64();
            if weight > 0.0 {
                let value = increase(counted, value) / weight;
                rates.push(Weighted { at, value, weight });
            }
        }
    }
    rates
}

/// The least value that at least this share of all values does not exceed.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

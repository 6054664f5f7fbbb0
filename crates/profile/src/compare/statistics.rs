//! The test behind a comparison: Welch's t over blocks, and the correction for testing many functions at once.
//!
//! Samples of one program follow each other: they are not drawn one by one, so a test that takes them for that finds
//! differences between any two minutes. Blocks of seconds are close to independent. What correlation is left between
//! neighbouring blocks counts as fewer blocks.

use std::f64::consts::PI;

/// Blocks from which on their correlation can be told at all; of fewer, its estimate is noise.
const MIN_CORRELATED_BLOCKS: usize = 10;
/// The strongest correlation of neighbouring blocks that is taken for one: beyond it there is a trend.
const MAX_CORRELATION: f64 = 0.8;
/// Terms of a continued fraction that converges within a few dozen.
const FRACTION_TERMS: u32 = 50;
/// Halvings of an interval that holds a quantile, and how close is close enough.
const MAX_HALVINGS: u32 = 100;
const QUANTILE_PRECISION: f64 = 1e-5;

/// One side of a comparison of one quantity: its value in each block.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// The mean over all of the time.
    pub mean: f64,
    /// Values of blocks, in the order of time.
    pub values: &'a [f64],
    /// What one CPU sample adds to the value of a block; 0 for values that do not come of counting.
    pub unit: f64,
}

/// A difference of means and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The second mean less the first.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of the error.
    pub freedom: f64,
    /// How often chance alone makes a difference as large, of either sign.
    pub p_value: f64,
}

impl Difference {
    /// Compares two sides, each of two blocks or more, by Welch's t.
    ///
    /// Blocks cannot agree better than the counting of samples allows, so that a few equal blocks are not taken for
    /// certainty: the variance of a block is at least that of a count with the common mean.
    pub fn between(before: &Sample<'_>, after: &Sample<'_>) -> Self {
        let count = (before.values.len() + after.values.len()) as f64;
        let sum: f64 = before.values.iter().chain(after.values).sum();
        let common = (sum / count).max(0.0);
        let first = Spread::of(before, common);
        let second = Spread::of(after, common);
        let value = after.mean - before.mean;
        let variance = first.of_mean + second.of_mean;
        let weighted = first.of_mean.powi(2) / first.freedom + second.of_mean.powi(2) / second.freedom;
        let freedom = if weighted > 0.0 {
            variance.powi(2) / weighted
        } else {
            first.freedom.min(second.freedom)
        };
        let error = variance.sqrt();
        let p_value = if value == 0.0 {
            1.0
        } else {
            two_sided(value / error, freedom)
        };
        Self {
            value,
            error,
            freedom,
            p_value,
        }
    }

    /// How far the true difference may lie from the value: in `confidence` of all cases it is no farther.
    pub fn margin(&self, confidence: f64) -> f64 {
        quantile(1.0 - confidence, self.freedom) * self.error
    }

    /// The smallest difference that a test at `level` finds with a chance of `power`.
    pub(super) fn smallest(&self, level: f64, power: f64) -> f64 {
        let beyond_noise = quantile(level, self.freedom);
        let beyond_luck = quantile(2.0 * (1.0 - power), self.freedom);
        (beyond_noise + beyond_luck) * self.error
    }
}

/// The variance of a mean.
struct Spread {
    of_mean: f64,
    freedom: f64,
}

impl Spread {
    fn of(sample: &Sample<'_>, common: f64) -> Self {
        let values = sample.values;
        let deviations = || values.iter().map(|value| value - sample.mean);
        let squares: f64 = deviations().map(|deviation| deviation * deviation).sum();
        let counted = common * sample.unit;
        let variance = (squares / (values.len() as f64 - 1.0)).max(counted);
        let effective = effective_blocks(values, sample.mean, squares);
        Self {
            of_mean: variance / effective,
            freedom: (effective - 1.0).max(1.0),
        }
    }
}

/// As many independent blocks would tell as much as these do.
fn effective_blocks(values: &[f64], mean: f64, squares: f64) -> f64 {
    let count = values.len() as f64;
    if values.len() < MIN_CORRELATED_BLOCKS || squares <= 0.0 {
        return count;
    }
    let products: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    let correlation = (products / squares).clamp(0.0, MAX_CORRELATION);
    (count * (1.0 - correlation) / (1.0 + correlation)).max(2.0)
}

/// Which hypotheses are rejected so that at most `level` of the rejections are wrong on average (Benjamini and Hochberg,
/// 1995).
pub(super) fn rejected(p_values: &[f64], level: f64) -> Vec<bool> {
    let mut sorted = p_values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let step = level / sorted.len().max(1) as f64;
    let allowed = |rank: usize| step * (rank + 1) as f64;
    let last = (0..sorted.len()).rev().find(|rank| sorted[*rank] <= allowed(*rank));
    let threshold = last.map_or(-1.0, |rank| sorted[rank]);
    p_values.iter().map(|p_value| *p_value <= threshold).collect()
}

/// The chance that Student's t with so many degrees of freedom lies farther from zero than `t`.
fn two_sided(t: f64, freedom: f64) -> f64 {
    let square = t * t;
    if square.is_nan() || !freedom.is_finite() || freedom <= 0.0 {
        return 1.0;
    }
    if square.is_infinite() {
        return 0.0;
    }
    incomplete_beta(freedom / (freedom + square), freedom / 2.0, 0.5)
}

/// The value that Student's t exceeds, to either side, with this chance.
fn quantile(two_sided_chance: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..MAX_HALVINGS {
        if two_sided(high, freedom) <= two_sided_chance {
            break;
        }
        low = high;
        high *= 2.0;
    }
    for _ in 0..MAX_HALVINGS {
        if high - low <= QUANTILE_PRECISION * high {
            break;
        }
        let middle = f64::midpoint(low, high);
        if two_sided(middle, freedom) > two_sided_chance {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The regularized incomplete beta function I_x(a, b) (Abramowitz and Stegun, 26.5.8), `x` from 0 to 1.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast below the mean of the distribution only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let coefficient = |term: u32| {
        let half = f64::from(term / 2);
        if term.is_multiple_of(2) {
            half * (b - half) * x / ((a + 2.0 * half - 1.0) * (a + 2.0 * half))
        } else {
            -(a + half) * (a + b + half) * x / ((a + 2.0 * half) * (a + 2.0 * half + 1.0))
        }
    };
    let fraction = (1..=FRACTION_TERMS)
        .rev()
        .fold(1.0, |below, term| 1.0 + coefficient(term) / below);
    let logarithm = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    (logarithm.exp() / (a * fraction)).clamp(0.0, 1.0)
}

/// The logarithm of the gamma function of a number above zero: Stirling's series, where it is exact enough, and the
/// recurrence down to the number.
fn ln_gamma(number: f64) -> f64 {
    const EXACT_FROM: f64 = 12.0;
    let mut shifted = number;
    let mut product = 1.0;
    while shifted < EXACT_FROM {
        product *= shifted;
        shifted += 1.0;
    }
    let square = (shifted * shifted).recip();
    let terms = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1_260.0, -1.0 / 1_680.0, 1.0 / 1_188.0];
    let series = terms.iter().rev().fold(0.0, |sum, term| sum * square + term) / shifted;
    (shifted - 0.5) * shifted.ln() - shifted + (2.0 * PI).ln() / 2.0 + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64, precision: f64) {
        let error = (actual - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
        assert!(error < precision, "{actual}, not {expected}");
    }

    #[test]
    fn gamma_of_known_numbers() {
        close(ln_gamma(0.5), PI.sqrt().ln(), 1e-12);
        close(ln_gamma(5.0), 24.0_f64.ln(), 1e-12);
        close(
            ln_gamma(101.0),
            (1..=100).map(|factor| f64::from(factor).ln()).sum(),
            1e-12,
        );
        assert!(ln_gamma(1.0).abs() < 1e-12 && ln_gamma(2.0).abs() < 1e-12);
    }

    #[test]
    fn chances_that_have_a_closed_form() {
        for t in [0.01, 0.3, 1.0, 2.5, 12.0, 1_000.0] {
            // One degree of freedom is Cauchy's distribution; two and four are algebraic.
            close(two_sided(t, 1.0), 2.0 / PI * (1.0 / t).atan(), 1e-9);
            let square: f64 = t * t;
            let two = 1.0 - t / (2.0 + square).sqrt();
            assert!((two_sided(t, 2.0) - two).abs() < 1e-12);
            let ratio = t / (4.0 + square).sqrt();
            let four = 1.0 - 1.5 * (ratio - ratio.powi(3) / 3.0);
            assert!((two_sided(t, 4.0) - four).abs() < 1e-12, "{t}");
        }
        // From a table.
        close(two_sided(1.971_90, 200.0), 0.05, 1e-4);
        close(two_sided(-3.339_84, 200.0), 0.001, 1e-3);
    }

    #[test]
    fn quantiles_as_in_tables() {
        for (chance, freedom, expected) in [
            (0.05, 1.0, 12.706),
            (0.05, 5.0, 2.571),
            (0.01, 14.0, 2.977),
            (0.001, 14.0, 4.140),
            (0.05, 30.0, 2.042),
            (0.001, 60.0, 3.460),
        ] {
            close(quantile(chance, freedom), expected, 2e-4);
        }
    }

    #[test]
    fn nothing_that_is_no_number_is_significant() {
        assert_eq!(two_sided(f64::NAN, 5.0), 1.0);
        assert_eq!(two_sided(1.0, f64::NAN), 1.0);
        assert_eq!(two_sided(1.0, 0.0), 1.0);
        assert_eq!(two_sided(f64::INFINITY, 5.0), 0.0);
        let zeros = Sample {
            mean: 0.0,
            values: &[0.0; 4],
            unit: 0.01,
        };
        let difference = Difference::between(&zeros, &zeros);
        assert_eq!(
            (difference.p_value, difference.value, difference.error),
            (1.0, 0.0, 0.0)
        );
    }

    /// Two samples of Welch's kind, checked against the textbook formulas by hand.
    #[test]
    fn welch_as_by_hand() {
        let sample = |values: &'static [f64]| Sample {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            values,
            unit: 0.0,
        };
        let difference = Difference::between(&sample(&[1.0, 2.0, 3.0, 4.0, 5.0]), &sample(&[4.0, 8.0, 6.0]));
        // Variances 2.5 and 4: the error is √(2.5/5 + 4/3), the freedom (11/6)² / (0.25/4 + (16/9)/2).
        close(difference.value, 3.0, 1e-12);
        close(difference.error, (11.0_f64 / 6.0).sqrt(), 1e-12);
        close(difference.freedom, (121.0 / 36.0) / (0.0625 + 8.0 / 9.0), 1e-12);
        let t = 3.0 / (11.0_f64 / 6.0).sqrt();
        close(difference.p_value, two_sided(t, difference.freedom), 1e-12);
        close(
            two_sided(difference.margin(0.95) / difference.error, difference.freedom),
            0.05,
            1e-4,
        );
    }

    #[test]
    fn equal_blocks_are_not_certain() {
        let sample = |values: &'static [f64]| Sample {
            mean: values[0],
            values,
            unit: 1.0,
        };
        let one_sample_more = Difference::between(&sample(&[5.0; 4]), &sample(&[6.0; 4]));
        assert!(one_sample_more.p_value > 0.2, "{one_sample_more:?}");
        let many_more = Difference::between(&sample(&[5.0; 4]), &sample(&[60.0; 4]));
        assert!(many_more.p_value < 1e-4, "{many_more:?}");
    }

    #[test]
    fn blocks_that_follow_each_other_count_less() {
        let slow: Vec<f64> = (0..40).map(|number| f64::from(number / 10)).collect();
        let fast: Vec<f64> = (0..40).map(|number| f64::from(number % 4)).collect();
        let error = |values: &[f64]| {
            let sample = Sample {
                mean: 1.5,
                values,
                unit: 0.0,
            };
            Difference::between(&sample, &sample).error
        };
        assert!(error(&slow) > 2.0 * error(&fast));
    }

    #[test]
    fn the_correction_rejects_step_by_step() {
        let p_values = [0.001, 0.013, 0.02, 0.03, 0.9];
        assert_eq!(rejected(&p_values, 0.05), [true, true, true, true, false]);
        // The third is above its step, and so is the fourth: both stay.
        assert_eq!(
            rejected(&[0.04, 0.001, 0.045, 0.018, 0.9], 0.05),
            [false, true, false, true, false]
        );
        assert_eq!(rejected(&[0.04, 0.05], 0.05), [true, true]);
        assert_eq!(rejected(&[0.03, 0.9], 0.05), [false, false]);
        assert!(rejected(&[], 0.05).is_empty());
    }
}

//! How far values are apart that were measured again and again, and how sure that makes their mean.

/// The 97.5th percentile of the normal distribution.
const NORMAL: f64 = 1.959_964;

/// Mean and standard deviation of some values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    count: f64,
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

impl Spread {
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / count;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        Self {
            count,
            mean,
            deviation: (squares / (count - 1.0)).sqrt(),
        }
    }

    /// Standard error of the mean.
    fn error(&self) -> f64 {
        self.deviation / self.count.sqrt()
    }

    /// By how much the true mean is more or less than the measured one at most, in 95 of 100 cases.
    pub(super) fn interval(&self) -> f64 {
        self.error() * student_t(self.count - 1.0)
    }
}

/// The 97.5th percentile of Student's distribution, from ten degrees of freedom on: its expansion about the normal one (Fisher
/// and Cornish), which is right to a thousandth there.
fn student_t(freedom: f64) -> f64 {
    let z = |power| NORMAL.powi(power);
    let first = (z(3) + z(1)) / 4.0;
    let second = (5.0 * z(5) + 16.0 * z(3) + 3.0 * z(1)) / 96.0;
    let third = (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * z(1)) / 384.0;
    NORMAL + first / freedom + second / freedom.powi(2) + third / freedom.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_a_sample() {
        let spread = Spread::of([2.0, 4.0, 4.0, 6.0].into_iter());
        assert!((spread.mean - 4.0).abs() < 1e-9);
        assert!((spread.deviation - (8.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        assert!((spread.error() - spread.deviation / 2.0).abs() < 1e-9);
    }

    #[test]
    fn an_interval_is_wider_the_fewer_values_there_are() {
        for (freedom, table) in [(10.0, 2.228), (11.0, 2.201), (29.0, 2.045), (1000.0, 1.962)] {
            let t = student_t(freedom);
            assert!((t - table).abs() < 0.001, "{t} for {freedom}");
        }
        let spread = Spread::of((0..12).map(f64::from));
        assert!((spread.interval() - spread.error() * 2.201).abs() < 0.001);
    }
}

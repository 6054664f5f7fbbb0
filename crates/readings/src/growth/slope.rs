//! The slope of a few points, and how sure it is: Theil and Sen's estimate with its rank-based interval.
//!
//! The slope is the median of the slopes between all pairs of points, so that a third of the points may be anything. Its
//! interval (Sen 1968) comes from ranks alone: were there no trend, each order of the values would be as likely as any
//! other, and it is known how many of the orders have so few pairs that fall. That is counted out, not approximated, because
//! there are few points. It asks that points are close to independent; who chooses them sees to that.

/// How often the true slope may lie outside of the interval, were the points independent.
const MISSED: f64 = 0.01;

/// A slope and the interval that it lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slope {
    /// The median of the slopes of all pairs.
    pub(super) value: f64,
    /// The ends of the interval.
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The slope of points, each a time and a value, in the order of their times, no two of which are the same. None of points too
/// few for any interval.
pub(super) fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let slopes = pairwise(points);
    let outside = outside(points.len())?;
    Some(Slope {
        value: median(&slopes)?,
        low: *slopes.get(outside)?,
        high: *slopes.get(slopes.len().checked_sub(outside + 1)?)?,
    })
}

/// The slope alone, of two points or more.
pub(super) fn slope_value(points: &[(f64, f64)]) -> Option<f64> {
    median(&pairwise(points))
}

/// The slopes of all pairs, the least first.
fn pairwise(points: &[(f64, f64)]) -> Vec<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    for (index, (later, after)) in points.iter().enumerate() {
        slopes.extend(
            points[..index]
                .iter()
                .map(|(earlier, before)| (after - before) / (later - earlier)),
        );
    }
    slopes.sort_by(f64::total_cmp);
    slopes
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len().is_multiple_of(2) {
        Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, upper))
    } else {
        Some(upper)
    }
}

/// How many of the least and of the greatest slopes lie outside of the interval; none if there is no interval.
fn outside(points: usize) -> Option<usize> {
    let mut tail = 0.0;
    let mut outside = None;
    for (falling, share) in orders(points).into_iter().enumerate() {
        tail += share;
        if 2.0 * tail > MISSED {
            break;
        }
        outside = Some(falling);
    }
    outside
}

/// The share of all orders of so many values that have 0, 1, 2 ... pairs that fall.
fn orders(values: usize) -> Vec<f64> {
    let mut shares = vec![1.0];
    for count in 2..=values {
        // The newest value falls below as many of the others as it is put before.
        let mut next = vec![0.0; shares.len() + count - 1];
        for (falling, share) in shares.iter().enumerate() {
            for place in &mut next[falling..falling + count] {
                *place += share / count as f64;
            }
        }
        shares = next;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_counted_out() {
        let counts = |values: usize, all: f64| -> Vec<u64> {
            let shares = orders(values).into_iter();
            shares.map(|share| (share * all).round() as u64).collect()
        };
        assert_eq!(counts(3, 6.0), [1, 2, 2, 1]);
        assert_eq!(counts(4, 24.0), [1, 3, 5, 6, 5, 3, 1]);
        assert!((orders(18).iter().sum::<f64>() - 1.0).abs() < 1e-9);
        // Tables of Kendall's S: 6 values must all rise, 7 may have one pair that falls, 10 may have 9.
        assert_eq!([5, 6, 7, 10].map(outside), [None, Some(0), Some(1), Some(8)]);
    }

    #[test]
    fn a_line_has_its_slope_whatever_a_few_points_are() {
        let mut points: Vec<(f64, f64)> = (0..12).map(|x| (f64::from(x), 3.0 + 2.0 * f64::from(x))).collect();
        let exact = slope(&points).unwrap();
        assert_eq!((exact.value, exact.low, exact.high), (2.0, 2.0, 2.0));
        points[3].1 = 1e9;
        points[8].1 = -1e9;
        let robust = slope(&points).unwrap();
        assert_eq!(robust.value, 2.0);
        assert!(robust.low <= 2.0 && robust.high >= 2.0);
        assert_eq!(slope(&points[..5]), None, "no order of five values is rare enough");
        assert_eq!(slope_value(&points[..1]), None);
        assert_eq!(slope_value(&points[..2]), Some(2.0));
    }
}

//! Outliers by the median and the median absolute deviation (MAD), which a few bad values do not move.

pub use crate::record::median::median;

use serde::Serialize;

/// What the MAD of normal values must be multiplied with to give their standard deviation.
pub const MAD_TO_STD: f64 = 1.4826;
/// Robust standard deviations from the median. Iglewicz and Hoaglin (1993) recommend 3.5.
pub const THRESHOLD: f64 = 3.5;
/// The least scale, as a share of the median. Where more than half the values are the same the MAD is 0, and
/// where they are nearly so it would call differences outliers that no one cares about.
pub const MIN_SCALE_FRACTION: f64 = 0.01;
/// With fewer values there is no telling which one is odd.
pub const MIN_VALUES: usize = 3;

/// Where values lie, and how far from there is usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub mad: f64,
    /// `MAD_TO_STD` times the MAD, or the least scale.
    pub scale: f64,
}

impl Spread {
    /// `None` for too few values, or where the median is no positive number.
    pub fn of(values: &[f64]) -> Option<Spread> {
        if values.len() < MIN_VALUES {
            return None;
        }
        let median = median(values)?;
        let deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        let mad = self::median(&deviations)?;
        let scale = (MAD_TO_STD * mad).max(MIN_SCALE_FRACTION * median);
        (median > 0.0 && scale.is_finite()).then_some(Spread { median, mad, scale })
    }

    /// Robust standard deviations above the median; negative below.
    pub fn score(&self, value: f64) -> f64 {
        (value - self.median) / self.scale
    }

    /// Values above this are outliers.
    pub fn limit(&self) -> f64 {
        self.median + THRESHOLD * self.scale
    }
}

/// How many values lie far above the others.
pub fn high_outliers(values: &[f64]) -> usize {
    Spread::of(values).map_or(0, |spread| values.iter().filter(|value| **value > spread.limit()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn scores_by_hand() {
        // Deviations 3, 1, 0, 1, 96.
        let spread = Spread::of(&[1.0, 3.0, 4.0, 5.0, 100.0]).unwrap();
        assert_eq!((spread.median, spread.mad), (4.0, 1.0));
        assert!((spread.scale - 1.4826).abs() < 1e-12);
        assert!((spread.score(100.0) - 96.0 / 1.4826).abs() < 1e-9);
        assert!((spread.limit() - (4.0 + 3.5 * 1.4826)).abs() < 1e-12);
        assert_eq!(high_outliers(&[1.0, 3.0, 4.0, 5.0, 100.0]), 1);
    }

    #[test]
    fn a_mad_of_zero_is_one_percent_of_the_median() {
        let values = [2.0, 2.0, 2.0, 2.0, 2.05, 2.08];
        let spread = Spread::of(&values).unwrap();
        assert_eq!((spread.mad, spread.scale), (0.0, 0.02));
        // 2.05 is 2.5 scales off, 2.08 is 4.
        assert_eq!(high_outliers(&values), 1);
    }

    #[test]
    fn too_few_and_odd_values_have_no_outliers() {
        assert_eq!(high_outliers(&[1.0, 100.0]), 0);
        for odd in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert_eq!(Spread::of(&[odd; 5]), None, "{odd}");
        }
        assert_eq!(high_outliers(&[f64::MAX, f64::MIN_POSITIVE, 1.0, f64::MAX]), 0);
    }
}

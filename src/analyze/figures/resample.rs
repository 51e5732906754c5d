//! How sure a figure is: 95 % intervals by a bootstrap over runs, and the turns or loads within each.
//!
//! `RESAMPLES` times as many runs are drawn with replacement, and from each as many of its values; the interval goes
//! from the 2.5th to the 97.5th percentile of what the statistic then gives. With one run only its values are drawn.
//! The generator is splitmix64 with a fixed seed, started afresh for each figure, and values are sorted before: equal
//! loads give equal intervals, in whatever order they were recorded.
//!
//! A median has an interval from `MIN_TURNS` values on. From fewer even the whole range misses the true median too often
//! (1 time in 4 with three), so two such sides would stand apart by chance; two sides of five do so 1 time in 126.

use anyhow::Result;
use polars::prelude::*;
use serde::Serialize;

use crate::record::median::median_of;

pub const RESAMPLES: usize = 10_000;
/// More loads than this take too many seconds to resample, and get no intervals.
pub const INTERVALS_MAX_LOADS: usize = 30_000;
pub const SEED: u64 = 0;
/// A median of fewer values gets no interval.
pub const MIN_TURNS: usize = 5;

pub type Interval = (f64, f64);

/// A figure and, where there are values enough, its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub interval: Option<Interval>,
}

/// What one run has for a ratio.
#[derive(Debug, Clone, PartialEq)]
pub enum Ratios {
    /// One for each turn.
    Paired(Vec<f64>),
    /// Loads that no turn pairs: the baseline's, and the other's.
    Unpaired(Vec<f64>, Vec<f64>),
}

/// Intervals of the mean (from 2 values on) and of the median. `runs` has the values of each run.
pub fn mean_and_median(runs: &[Vec<f64>], resamples: usize) -> Result<[Option<Interval>; 2]> {
    let count: usize = runs.iter().map(Vec::len).sum();
    if count < 2 {
        return Ok([None, None]);
    }
    let mut random = SplitMix64(SEED);
    let mut drawn = Vec::with_capacity(count);
    let (mut means, mut medians) = (Vec::with_capacity(resamples), Vec::with_capacity(resamples));
    for _ in 0..resamples {
        drawn.clear();
        for run in random.runs(runs) {
            random.values(run, &mut drawn);
        }
        means.push(drawn.iter().sum::<f64>() / drawn.len() as f64);
        if count >= MIN_TURNS {
            medians.extend(median_of(&mut drawn));
        }
    }
    Ok([middle_95(&means)?, middle_95(&medians)?])
}

/// The median of ratios by turn; of loads that are not paired, the median of each run's ratio of medians.
pub fn median_ratio(runs: &[Ratios], resamples: usize, with_interval: bool) -> Result<Option<Estimate>> {
    let mut drawn = Vec::new();
    runs.iter().for_each(|run| run.add_to(&mut drawn));
    let Some(value) = median_of(&mut drawn) else { return Ok(None) };
    let enough = runs.iter().map(Ratios::turns).sum::<usize>() >= MIN_TURNS;
    if !with_interval || !enough {
        return Ok(Some(Estimate { value, interval: None }));
    }
    let mut random = SplitMix64(SEED);
    let mut medians = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        drawn.clear();
        for run in random.runs(runs) {
            random.ratios(run, &mut drawn);
        }
        medians.extend(median_of(&mut drawn));
    }
    Ok(Some(Estimate { value, interval: middle_95(&medians)? }))
}

impl Ratios {
    fn add_to(&self, values: &mut Vec<f64>) {
        match self {
            Ratios::Paired(ratios) => values.extend(ratios),
            Ratios::Unpaired(baseline, own) => {
                values.extend(ratio_of_medians(&mut baseline.clone(), &mut own.clone()))
            }
        }
    }

    /// Turns, or the loads of the side that has fewer.
    pub fn turns(&self) -> usize {
        match self {
            Ratios::Paired(ratios) => ratios.len(),
            Ratios::Unpaired(baseline, own) => baseline.len().min(own.len()),
        }
    }
}

fn ratio_of_medians(baseline: &mut [f64], own: &mut [f64]) -> Option<f64> {
    Some(median_of(baseline)? / median_of(own)?)
}

fn middle_95(drawn: &[f64]) -> Result<Option<Interval>> {
    Ok(quantile(drawn, 0.025)?.zip(quantile(drawn, 0.975)?))
}

/// By linear interpolation; `None` of nothing.
pub fn quantile(samples: &[f64], share: f64) -> Result<Option<f64>> {
    Ok(Float64Chunked::from_slice(PlSmallStr::EMPTY, samples).quantile(share, QuantileMethod::Linear)?)
}

/// Steele, Lea, Flood 2014: small, fast, and the same everywhere.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `count`: the high half of a 128-bit product.
    fn index(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    /// As many runs, drawn with replacement; one alone as it is.
    fn runs<'a, T>(&mut self, runs: &'a [T]) -> Vec<&'a T> {
        match runs {
            [one] => vec![one],
            runs => (0..runs.len()).filter_map(|_| runs.get(self.index(runs.len()))).collect(),
        }
    }

    /// Adds as many values, drawn with replacement.
    pub fn values(&mut self, values: &[f64], drawn: &mut Vec<f64>) {
        for _ in 0..values.len() {
            drawn.extend(values.get(self.index(values.len())));
        }
    }

    /// Adds the ratios of as many turns, or loads, drawn with replacement.
    fn ratios(&mut self, run: &Ratios, drawn: &mut Vec<f64>) {
        match run {
            Ratios::Paired(ratios) => self.values(ratios, drawn),
            Ratios::Unpaired(baseline, own) => {
                let (mut baseline_drawn, mut own_drawn) = (Vec::new(), Vec::new());
                self.values(baseline, &mut baseline_drawn);
                self.values(own, &mut own_drawn);
                drawn.extend(ratio_of_medians(&mut baseline_drawn, &mut own_drawn));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_their_value_and_stay_within_the_values() {
        let values = vec![1.0, 1.1, 1.2, 1.3, 1.4, 5.0];
        let [mean, median] = mean_and_median(&[values], 2000).unwrap();
        let ((low, high), (from, to)) = (mean.unwrap(), median.unwrap());
        assert!((1.0..11.0 / 6.0).contains(&low) && (11.0 / 6.0..5.0).contains(&high), "{low} {high}");
        assert!((1.0..1.25).contains(&from) && (1.25..5.0).contains(&to), "{from} {to}");
    }

    #[test]
    fn few_values_give_no_interval_of_a_median() {
        let [mean, median] = mean_and_median(&[vec![1.0, 2.0, 3.0, 4.0]], 100).unwrap();
        assert!(mean.is_some() && median.is_none());
        assert_eq!(mean_and_median(&[vec![1.0]], 100).unwrap(), [None, None]);
        let few = median_ratio(&[Ratios::Paired(vec![2.0; 4])], 100, true).unwrap().unwrap();
        assert_eq!(few, Estimate { value: 2.0, interval: None });
        assert_eq!(median_ratio(&[Ratios::Paired(Vec::new())], 100, true).unwrap(), None);
    }

    #[test]
    fn runs_that_differ_widen_the_interval() {
        let (one, other) = (vec![1.0, 1.01, 0.99, 1.0, 1.02], vec![1.2, 1.21, 1.19, 1.2, 1.22]);
        let together = [one.clone(), other.clone()].concat();
        let width = |runs: &[Vec<f64>]| {
            let (low, high) = mean_and_median(runs, 2000).unwrap()[0].unwrap();
            high - low
        };
        assert!(width(&[one, other]) > 1.4 * width(&[together]));
    }

    #[test]
    fn loads_that_are_not_paired_give_the_ratio_of_their_medians() {
        let loads = Ratios::Unpaired(vec![10.0, 9.0, 11.0, 10.0, 90.0], vec![1.0, 2.0, 1.0, 1.1, 0.9]);
        let ratio = median_ratio(&[loads], 1000, true).unwrap().unwrap();
        let (low, high) = ratio.interval.unwrap();
        assert!((ratio.value - 10.0).abs() < 1e-12 && low < 10.0 && high > 10.0, "{ratio:?}");
    }
}

//! Loads to groups: figures by polars, intervals and speedups by a seeded bootstrap.
//!
//! How the figures are made (the README says the same):
//! - The standard deviation is the population's (divided by n), as ServerlessLLM's report has it.
//! - Percentiles interpolate linearly between the two nearest ranks: the p-th of n sorted samples stands at
//!   rank p/100 · (n − 1), counted from 0 (numpy's default).
//! - GB/s is all bytes over all seconds of the samples that know their bytes; 1 GB is 10^9 bytes.
//! - A speedup is the baseline's mean load time over the group's own.
//! - Intervals hold 95 %: the 2.5th and 97.5th percentile over `RESAMPLES` resamples with replacement, both
//!   sides of a speedup resampled independently. The generator is splitmix64 with a fixed seed, started
//!   afresh for each interval, so equal inputs give equal intervals. One sample alone gives none. Past
//!   `INTERVALS_MAX_LOADS` there are none at all: they cost `RESAMPLES` draws a load.

use anyhow::{Context, Result};
use polars::prelude::*;
use serde::Serialize;

use crate::analyze::group_key::GroupKey;
use crate::analyze::read::Load;
use crate::analyze::robust;
use crate::os::parallel;

pub const RESAMPLES: usize = 10_000;
/// More loads than this take too many seconds to resample, and get no intervals.
pub const INTERVALS_MAX_LOADS: usize = 30_000;
pub const SEED: u64 = 0;

/// The loads of one key. All times are seconds.
#[derive(Debug, Clone)]
pub struct Group {
    pub key: GroupKey,
    /// Sorted; its length is the count.
    pub samples_s: Vec<f64>,
    pub errors: usize,
    /// Loads that were meant to be cold and were not.
    pub warm_by_mistake: usize,
    /// Loads whose bytes were checked and right.
    pub verified: usize,
    /// Loads that took far longer than this group's others.
    pub slow_loads: usize,
    /// Absent when no load succeeded.
    pub figures: Option<Figures>,
    pub gb_per_s: Option<f64>,
    /// The mean of inference after the loads, where records have it.
    pub tokens_per_s: Option<f64>,
    /// Over SafeTensors in the same section; where that ran with several engines, over the fastest.
    pub speedup: Option<Estimate>,
}

#[derive(Debug, Clone)]
pub struct Figures {
    pub mean: Estimate,
    pub min_s: f64,
    pub max_s: f64,
    pub std_s: f64,
    pub p50_s: f64,
    pub p95_s: f64,
    pub p99_s: f64,
}

/// A figure and, where there are samples enough, its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}

/// Groups loads by key. `keys` are sorted, and each has a load.
pub fn group(loads: &[Load], keys: &[GroupKey]) -> Result<Vec<Group>> {
    let table = aggregate(loads)?;
    let rows: Vec<(usize, &GroupKey)> = keys.iter().enumerate().collect();
    let with_intervals = loads.len() <= INTERVALS_MAX_LOADS;
    let groups = parallel::map(&rows, |(row, key)| {
        to_group(key, &table, *row, with_intervals).with_context(|| format!("summarize {}", key.title()))
    });
    let mut groups = groups.into_iter().collect::<Result<Vec<_>>>()?;
    add_speedups(&mut groups, with_intervals)?;
    Ok(groups)
}

/// One row a group, in the order of their numbers, with each figure as a column.
fn aggregate(loads: &[Load]) -> PolarsResult<DataFrame> {
    let sized_time = |load: &Load| load.bytes.and(load.time_s);
    let frame = df![
        "group" => loads.iter().map(|load| load.group).collect::<Vec<u32>>(),
        "time_s" => loads.iter().map(|load| load.time_s).collect::<Vec<_>>(),
        "sized_time_s" => loads.iter().map(sized_time).collect::<Vec<_>>(),
        "sized_bytes" => loads.iter().map(|load| load.time_s.and(load.bytes)).collect::<Vec<_>>(),
        "warm_by_mistake" => loads.iter().map(|load| load.warm_by_mistake).collect::<Vec<_>>(),
        "tokens_per_s" => loads.iter().map(|load| load.tokens_per_s).collect::<Vec<_>>(),
        "verified" => loads.iter().map(|load| load.verified).collect::<Vec<_>>(),
    ]?;
    let time = || col("time_s");
    let percentile =
        |percent: f64, name: &str| time().quantile(lit(percent / 100.0), QuantileMethod::Linear).alias(name);
    frame
        .lazy()
        .group_by([col("group")])
        .agg([
            time().drop_nulls().sort(SortOptions::default()).alias("samples_s"),
            time().null_count().cast(DataType::UInt64).alias("errors"),
            col("warm_by_mistake").sum().cast(DataType::UInt64),
            col("verified").sum().cast(DataType::UInt64),
            col("tokens_per_s").mean(),
            time().mean().alias("mean_s"),
            time().min().alias("min_s"),
            time().max().alias("max_s"),
            time().std(0).alias("std_s"),
            percentile(50.0, "p50_s"),
            percentile(95.0, "p95_s"),
            percentile(99.0, "p99_s"),
            (col("sized_bytes").sum() / col("sized_time_s").sum() / lit(1e9)).alias("gb_per_s"),
        ])
        .sort(["group"], SortMultipleOptions::default())
        .collect()
}

fn to_group(key: &GroupKey, table: &DataFrame, row: usize, with_interval: bool) -> Result<Group> {
    let number = |name: &str| -> Result<Option<f64>> { Ok(table.column(name)?.f64()?.get(row)) };
    let count =
        |name: &str| -> Result<usize> { Ok(table.column(name)?.u64()?.get(row).unwrap_or(0) as usize) };
    let samples = table.column("samples_s")?.list()?.get_as_series(row);
    let samples_s: Vec<f64> = match samples {
        Some(series) => series.f64()?.iter().flatten().collect(),
        None => Vec::new(),
    };
    let figures = match number("mean_s")? {
        None => None,
        Some(value) => {
            let known = |name: &str| number(name)?.with_context(|| format!("{name} is missing"));
            let interval = if with_interval { mean_interval(&samples_s)? } else { None };
            Some(Figures {
                mean: Estimate { value, interval },
                min_s: known("min_s")?,
                max_s: known("max_s")?,
                std_s: known("std_s")?,
                p50_s: known("p50_s")?,
                p95_s: known("p95_s")?,
                p99_s: known("p99_s")?,
            })
        }
    };
    Ok(Group {
        key: key.clone(),
        slow_loads: robust::high_outliers(&samples_s),
        samples_s,
        errors: count("errors")?,
        warm_by_mistake: count("warm_by_mistake")?,
        verified: count("verified")?,
        figures,
        // No load that knows its bytes: 0/0.
        gb_per_s: number("gb_per_s")?.filter(|rate| rate.is_finite()),
        tokens_per_s: number("tokens_per_s")?,
        speedup: None,
    })
}

fn add_speedups(groups: &mut [Group], with_intervals: bool) -> Result<()> {
    for section in groups.chunk_by_mut(|a, b| a.key.section() == b.key.section()) {
        let Some(baseline) = fastest_baseline(section).cloned() else { continue };
        for group in section.iter_mut().filter(|group| !group.key.is_baseline()) {
            group.speedup = speedup(&baseline, group, with_intervals)?;
        }
    }
    Ok(())
}

fn fastest_baseline(section: &[Group]) -> Option<&Group> {
    let mean_s = |group: &Group| group.figures.as_ref().map(|figures| figures.mean.value);
    let baselines = section.iter().filter(|group| group.key.is_baseline());
    let with_mean = baselines.filter_map(|group| Some((mean_s(group)?, group)));
    with_mean.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, group)| group)
}

fn speedup(baseline: &Group, group: &Group, with_interval: bool) -> Result<Option<Estimate>> {
    let (Some(slow), Some(fast)) = (&baseline.figures, &group.figures) else { return Ok(None) };
    let (slow_s, fast_s) = (&baseline.samples_s, &group.samples_s);
    let interval = if !with_interval || slow_s.len() < 2 || fast_s.len() < 2 {
        None
    } else {
        let mut random = SplitMix64(SEED);
        bootstrap(|| random.resampled_mean(slow_s) / random.resampled_mean(fast_s))?
    };
    Ok(Some(Estimate { value: slow.mean.value / fast.mean.value, interval }))
}

fn mean_interval(samples_s: &[f64]) -> Result<Option<(f64, f64)>> {
    if samples_s.len() < 2 {
        return Ok(None);
    }
    let mut random = SplitMix64(SEED);
    bootstrap(|| random.resampled_mean(samples_s))
}

fn bootstrap(mut draw: impl FnMut() -> f64) -> Result<Option<(f64, f64)>> {
    let drawn: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
    Ok(quantile(&drawn, 0.025)?.zip(quantile(&drawn, 0.975)?))
}

/// By linear interpolation; `None` of nothing.
pub fn quantile(samples: &[f64], share: f64) -> Result<Option<f64>> {
    Ok(Float64Chunked::from_slice(PlSmallStr::EMPTY, samples).quantile(share, QuantileMethod::Linear)?)
}

/// Steele, Lea, Flood 2014: small, fast, and the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The mean of as many samples, drawn with replacement.
    fn resampled_mean(&mut self, samples: &[f64]) -> f64 {
        let count = samples.len();
        // The high half of a 128-bit product is an index below `count`.
        let index = |random: u64| ((u128::from(random) * count as u128) >> 64) as usize;
        (0..count).map(|_| samples[index(self.next())]).sum::<f64>() / count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Keyed = (GroupKey, Option<f64>, Option<f64>);

    fn load(format: &str, engine: &str, cache: &str, time_s: Option<f64>, bytes: Option<f64>) -> Keyed {
        (GroupKey::new(["m", "cached", "host", cache], format, engine), time_s, bytes)
    }

    fn group(all: &[Keyed]) -> Result<Vec<Group>> {
        let mut keys: Vec<GroupKey> = all.iter().map(|(key, _, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        let load = |(key, time_s, bytes): &Keyed| Load {
            group: keys.binary_search(key).unwrap() as u32,
            time_s: *time_s,
            bytes: *bytes,
            ..Load::default()
        };
        super::group(&all.iter().map(load).collect::<Vec<_>>(), &keys)
    }

    fn loads(format: &str, times: &[f64]) -> Vec<Keyed> {
        times.iter().map(|time_s| load(format, "", "warm", Some(*time_s), Some(2e9))).collect()
    }

    #[test]
    fn figures_by_hand() {
        let mut all = loads("sllm", &[4.0, 1.0, 3.0, 2.0]);
        all.push(load("sllm", "", "warm", None, Some(2e9)));
        let groups = group(&all).unwrap();
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        let figures = group.figures.as_ref().unwrap();
        assert_eq!((group.samples_s.as_slice(), group.errors), ([1.0, 2.0, 3.0, 4.0].as_slice(), 1));
        assert_eq!((figures.mean.value, figures.min_s, figures.max_s, figures.p50_s), (2.5, 1.0, 4.0, 2.5));
        assert!((figures.std_s - 1.25f64.sqrt()).abs() < 1e-12);
        // Ranks 2.85 and 2.97 of 0..=3.
        assert!((figures.p95_s - 3.85).abs() < 1e-12 && (figures.p99_s - 3.97).abs() < 1e-12);
        // 8 GB in 10 s.
        assert!((group.gb_per_s.unwrap() - 0.8).abs() < 1e-12);
        assert_eq!(group.speedup, None);
    }

    #[test]
    fn speedup_is_the_ratio_of_means_within_its_interval() {
        let mut all = loads("sllm", &[1.0, 1.2, 0.8]);
        all.extend(loads("safetensors", &[10.0, 9.0, 11.0]));
        all.extend(loads("safetensors-direct", &[2.0, 2.0, 2.0]));
        let groups = group(&all).unwrap();
        let formats: Vec<&str> = groups.iter().map(|group| group.key.format.as_str()).collect();
        assert_eq!(formats, ["safetensors-direct", "sllm", "safetensors"]);
        let speedup = groups[1].speedup.unwrap();
        let (low, high) = speedup.interval.unwrap();
        assert!((speedup.value - 10.0).abs() < 1e-9);
        // No resample leaves 9/1.2 … 11/0.8.
        assert!((7.5..10.0).contains(&low) && high > 10.0 && high <= 13.75 + 1e-9, "{low} {high}");
        assert!((groups[0].speedup.unwrap().value - 5.0).abs() < 1e-9);
        assert_eq!(groups[2].speedup, None);
    }

    #[test]
    fn the_order_of_records_changes_nothing() {
        let mut all = loads("sllm", &[1.0, 1.5, 0.8, 1.1]);
        all.extend(loads("safetensors", &[10.0, 9.0, 11.0]));
        let forward = group(&all).unwrap()[0].speedup;
        all.reverse();
        assert_eq!(group(&all).unwrap()[0].speedup, forward);
    }

    #[test]
    fn cold_and_warm_are_never_compared() {
        let all = [
            load("sllm", "auto", "cold", Some(1.0), None),
            load("safetensors", "baseline-rust", "warm", Some(10.0), None),
        ];
        assert!(group(&all).unwrap().iter().all(|group| group.speedup.is_none() && group.gb_per_s.is_none()));
    }

    #[test]
    fn of_two_baselines_the_faster_counts() {
        let all = [
            load("sllm", "auto", "warm", Some(1.0), None),
            load("safetensors", "baseline-rust", "warm", Some(10.0), None),
            load("safetensors", "baseline-python", "warm", Some(6.0), None),
        ];
        assert_eq!(group(&all).unwrap()[0].speedup, Some(Estimate { value: 6.0, interval: None }));
    }

    #[test]
    fn a_group_of_errors_has_no_figures() {
        let groups = group(&[load("sllm", "", "", None, None)]).unwrap();
        assert!(groups[0].figures.is_none() && groups[0].samples_s.is_empty() && groups[0].errors == 1);
    }

    #[test]
    fn intervals_end_where_they_would_take_minutes() {
        let mut all = loads("sllm", &vec![1.0; INTERVALS_MAX_LOADS]);
        all.extend(loads("safetensors", &[10.0, 10.0]));
        let groups = group(&all).unwrap();
        assert_eq!(groups[0].speedup, Some(Estimate { value: 10.0, interval: None }));
        assert!(groups[1].figures.as_ref().unwrap().mean.interval.is_none());
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for time_s in [f64::MAX, f64::MIN_POSITIVE, 1e-300] {
            let mut all = loads("sllm", &[time_s; 3]);
            all.extend(loads("safetensors", &[1.0; 3]));
            assert_eq!(group(&all).unwrap().len(), 2);
        }
    }
}

//! What loads of one key come to, and the same as rows for other programs.

use anyhow::Result;
use polars::prelude::*;

use crate::analyze::figures::resample::Estimate;
use crate::analyze::key::GroupKey;

/// With fewer loads the 95th and 99th percentile are the slowest load in other words.
pub const TAIL_MIN_LOADS: usize = 20;
/// What the median absolute deviation (MAD) of normal values must be multiplied with to give their standard deviation.
pub const MAD_TO_STD: f64 = 1.4826;
/// Robust standard deviations from the median. Iglewicz and Hoaglin (1993) recommend 3.5.
pub const THRESHOLD: f64 = 3.5;
/// The least robust standard deviation, as a share of the median. Where more than half the values are the same the MAD
/// is 0, and where they are nearly so it would call differences outliers that no one cares about.
pub const MIN_SCALE_FRACTION: f64 = 0.01;
/// With fewer values there is no telling which one is odd.
pub const MIN_VALUES: usize = 3;
/// A load that is named as slow took so many times the median.
pub const SLOW_FACTOR: f64 = 1.5;

/// The loads of one key. All times are seconds.
#[derive(Debug, Clone)]
pub struct Group {
    pub key: GroupKey,
    /// Within its section: the format, and the engine where the format alone does not tell.
    pub name: String,
    /// Sorted; its length is the count.
    pub samples_s: Vec<f64>,
    pub errors: usize,
    /// Loads that were meant to be cold and were not.
    pub warm_by_mistake: usize,
    /// Loads whose bytes were checked and right.
    pub verified: usize,
    /// The runs that its loads are of.
    pub runs: Vec<String>,
    /// Absent when no load succeeded.
    pub figures: Option<Figures>,
    pub gb_per_s: Option<f64>,
    /// The mean of inference after the loads, where records have it.
    pub tokens_per_s: Option<f64>,
    pub speedup: Option<Speedup>,
}

#[derive(Debug, Clone)]
pub struct Figures {
    pub mean: Estimate,
    pub median: Estimate,
    pub min_s: f64,
    pub max_s: f64,
    pub std_s: f64,
    /// The median absolute deviation.
    pub mad_s: f64,
    /// From `TAIL_MIN_LOADS` loads on.
    pub p95_s: Option<f64>,
    pub p99_s: Option<f64>,
    /// How many loads were slow.
    pub slow_loads: usize,
}

/// Over SafeTensors.
#[derive(Debug, Clone)]
pub struct Speedup {
    pub ratio: Estimate,
    /// Whose SafeTensors: its engine.
    pub baseline: String,
    /// Whether it is by turn.
    pub is_paired: bool,
    pub turns: usize,
    /// The ratio of the means, as ServerlessLLM's report has it; absent with several runs, since it would mix them.
    pub of_means: Option<f64>,
}

impl Figures {
    /// The robust standard deviation.
    pub fn scale_s(&self) -> f64 {
        (MAD_TO_STD * self.mad_s).max(MIN_SCALE_FRACTION * self.median.value)
    }

    /// What takes longer is far off.
    pub fn limit_s(&self) -> f64 {
        self.median.value + THRESHOLD * self.scale_s()
    }
}

/// Which side a ratio's interval shows to be faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Faster,
    Slower,
    /// The interval holds 1.
    NoDifference,
    /// There is no interval.
    NotKnown,
}

impl Speedup {
    pub fn shown(&self) -> Shown {
        match self.ratio.interval {
            None => Shown::NotKnown,
            Some((low, _)) if low > 1.0 => Shown::Faster,
            Some((_, high)) if high < 1.0 => Shown::Slower,
            Some(_) => Shown::NoDifference,
        }
    }
}

impl Group {
    pub fn loads(&self) -> usize {
        self.samples_s.len() + self.errors
    }

    pub fn median_s(&self) -> Option<f64> {
        self.figures.as_ref().map(|figures| figures.median.value)
    }

    /// How many times the median each slow load took.
    pub fn slow_factors(&self) -> Vec<f64> {
        let Some(figures) = &self.figures else { return Vec::new() };
        let slow = self.samples_s.iter().rev().take(figures.slow_loads).rev();
        slow.map(|time_s| time_s / figures.median.value).collect()
    }
}

/// The groups that may be compared with one another, by section.
pub fn sections(groups: &[Group]) -> impl Iterator<Item = &[Group]> {
    groups.chunk_by(|a, b| a.key.section() == b.key.section())
}

/// One row a group; every column's unit ends its name. What CSV and JSON print, and what regressions are joined by.
pub fn frame(groups: &[Group]) -> Result<DataFrame> {
    let count = |get: fn(&Group) -> usize| -> Vec<u64> { groups.iter().map(|g| get(g) as u64).collect() };
    let figure = |get: fn(&Figures) -> Option<f64>| -> Vec<Option<f64>> {
        groups.iter().map(|group| group.figures.as_ref().and_then(get)).collect()
    };
    let speedup = |get: fn(&Speedup) -> Option<f64>| -> Vec<Option<f64>> {
        groups.iter().map(|group| group.speedup.as_ref().and_then(get)).collect()
    };
    let of_speedup = || groups.iter().map(|group| group.speedup.as_ref());
    let figures = df![
        "count" => count(|g| g.samples_s.len()),
        "errors" => count(|g| g.errors),
        "meant_cold_but_warm" => count(|g| g.warm_by_mistake),
        "verified" => count(|g| g.verified),
        "slow_loads" => count(|g| g.figures.as_ref().map_or(0, |figures| figures.slow_loads)),
        "runs" => count(|g| g.runs.len()),
        "mean_s" => figure(|f| Some(f.mean.value)),
        "mean_low_s" => figure(|f| Some(f.mean.interval?.0)),
        "mean_high_s" => figure(|f| Some(f.mean.interval?.1)),
        "min_s" => figure(|f| Some(f.min_s)),
        "max_s" => figure(|f| Some(f.max_s)),
        "std_s" => figure(|f| Some(f.std_s)),
        "p50_s" => figure(|f| Some(f.median.value)),
        "p50_low_s" => figure(|f| Some(f.median.interval?.0)),
        "p50_high_s" => figure(|f| Some(f.median.interval?.1)),
        "p95_s" => figure(|f| f.p95_s),
        "p99_s" => figure(|f| f.p99_s),
        "gb_per_s" => groups.iter().map(|group| group.gb_per_s).collect::<Vec<_>>(),
        "speedup" => speedup(|s| Some(s.ratio.value)),
        "speedup_low" => speedup(|s| Some(s.ratio.interval?.0)),
        "speedup_high" => speedup(|s| Some(s.ratio.interval?.1)),
        "speedup_of_means" => speedup(|s| s.of_means),
        "baseline" => of_speedup().map(|s| Some(s?.baseline.as_str())).collect::<Vec<_>>(),
        "paired" => of_speedup().map(|s| Some(s?.is_paired)).collect::<Vec<_>>(),
        "turns" => of_speedup().map(|s| Some(s?.turns as u64)).collect::<Vec<_>>(),
    ]?;
    Ok(key_columns(groups.iter().map(|group| Some(&group.key)))?.hstack(figures.columns())?)
}

/// Empty texts become null.
pub fn with_nulls(frame: DataFrame) -> Result<DataFrame> {
    let is_text = |column: &&Column| column.dtype() == &DataType::String;
    let texts: Vec<PlSmallStr> =
        frame.columns().iter().filter(is_text).map(|column| column.name().clone()).collect();
    let null = |name: PlSmallStr| {
        let text = || col(name.clone());
        when(text().eq(lit(""))).then(lit(NULL)).otherwise(text()).alias(name.clone())
    };
    Ok(frame.lazy().with_columns(texts.into_iter().map(null).collect::<Vec<_>>()).collect()?)
}

/// What names a group. What a key does not say is null.
pub fn key_columns<'a>(keys: impl Iterator<Item = Option<&'a GroupKey>>) -> PolarsResult<DataFrame> {
    let keys: Vec<Option<&GroupKey>> = keys.collect();
    let text = |get: fn(&GroupKey) -> &str| -> Vec<Option<&str>> {
        keys.iter().map(|key| key.map(get).filter(|text| !text.is_empty())).collect()
    };
    df![
        "model" => text(|key| &key.model),
        "mode" => text(|key| &key.mode),
        "destination" => text(|key| &key.destination),
        "cache_state" => text(|key| &key.cache_state),
        "host" => text(|key| &key.host),
        "format" => text(|key| &key.format),
        "engine" => text(|key| &key.engine),
    ]
}

//! Loads to groups: figures by polars, intervals and speedups by a seeded bootstrap.
//!
//! How the figures are made (the README says the same):
//! - The standard deviation is the population's (divided by n), as ServerlessLLM's report has it.
//! - Percentiles interpolate linearly between the two nearest ranks: the p-th of n sorted samples stands at
//!   rank p/100 · (n − 1), counted from 0 (numpy's default). The 95th and 99th need `TAIL_MIN_LOADS` loads.
//! - GB/s is all bytes over all seconds of the samples that know their bytes; 1 GB is 10^9 bytes.
//! - A load is slow where it took more than the median and `THRESHOLD` robust standard deviations, and `SLOW_FACTOR`
//!   times the median at least.
//! - Speedups are `turns`, intervals are `resample`.

use anyhow::{Context, Result};
use polars::prelude::*;

use crate::analyze::figures::resample::{
    Estimate, INTERVALS_MAX_LOADS, Interval, RESAMPLES, mean_and_median,
};
use crate::analyze::figures::turns::speedups;
use crate::analyze::key::{GroupKey, KEY};
use crate::os::parallel;

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

/// Every group, section by section, in each the fastest first and last those without a load that succeeded.
pub fn group(loads: &DataFrame) -> Result<Vec<Group>> {
    let with_intervals = loads.height() <= INTERVALS_MAX_LOADS;
    let table = aggregate(loads, with_intervals)?;
    let rows: Vec<usize> = (0..table.height()).collect();
    let groups = parallel::map(&rows, |row| Row { table: &table, row: *row }.group(with_intervals));
    let mut groups = groups.into_iter().collect::<Result<Vec<_>>>()?;
    groups.sort_by(|a, b| {
        let time = |group: &Group| group.median_s().unwrap_or(f64::INFINITY);
        let section = a.key.section().cmp(&b.key.section());
        section.then(time(a).total_cmp(&time(b))).then(a.key.cmp(&b.key))
    });
    groups.chunk_by_mut(|a, b| a.key.section() == b.key.section()).for_each(compare_within);
    Ok(groups)
}

/// One row a group with each figure as a column, and its speedup beside.
fn aggregate(loads: &DataFrame, with_intervals: bool) -> Result<DataFrame> {
    let time = || col("time_s");
    let percentile =
        |percent: f64, name: &str| time().quantile(lit(percent / 100.0), QuantileMethod::Linear).alias(name);
    let sized = || time().is_not_null().and(col("bytes").is_not_null());
    let count = |what: Expr, name: &str| what.cast(DataType::UInt64).alias(name);
    let mut figures = vec![
        time().drop_nulls().sort(SortOptions::default()).alias("samples_s"),
        count(time().null_count(), "errors"),
        count(col("warm_by_mistake").sum(), "warm_by_mistake"),
        count((col("verified").fill_null(lit(false)).and(time().is_not_null())).sum(), "verified"),
        col("tokens_per_s").mean(),
        time().mean().alias("mean_s"),
        time().min().alias("min_s"),
        time().max().alias("max_s"),
        time().std(0).alias("std_s"),
        percentile(50.0, "p50_s"),
        percentile(95.0, "p95_s"),
        percentile(99.0, "p99_s"),
        distance(time(), time().median()).median().alias("mad_s"),
        (col("bytes").filter(sized()).sum() / time().filter(sized()).sum() / lit(1e9)).alias("gb_per_s"),
        col("run").unique().alias("runs"),
    ];
    if with_intervals {
        let by_run = |what: &str| col(what).sort_by([col("run"), time()], SortMultipleOptions::default());
        figures.extend([by_run("run").alias("run_of"), by_run("time_s").alias("time_by_run_s")]);
    }
    let groups = loads.clone().lazy().group_by(KEY.map(col)).agg(figures);
    let speedups = speedups(loads, with_intervals)?.lazy();
    Ok(groups.join(speedups, KEY.map(col), KEY.map(col), JoinArgs::new(JoinType::Left)).collect()?)
}

/// How far apart two numbers are.
pub fn distance(a: Expr, b: Expr) -> Expr {
    when(a.clone().gt(b.clone())).then(a.clone() - b.clone()).otherwise(b - a)
}

/// A row of the aggregated frame.
struct Row<'a> {
    table: &'a DataFrame,
    row: usize,
}

impl Row<'_> {
    fn number(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.table.column(name)?.f64()?.get(self.row))
    }

    fn count(&self, name: &str) -> Result<usize> {
        Ok(self.table.column(name)?.u64()?.get(self.row).unwrap_or(0) as usize)
    }

    fn text(&self, name: &str) -> Result<Option<&str>> {
        Ok(self.table.column(name)?.str()?.get(self.row))
    }

    fn list(&self, name: &str) -> Result<Option<Series>> {
        Ok(self.table.column(name)?.list()?.get_as_series(self.row))
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let Some(series) = self.list(name)? else { return Ok(Vec::new()) };
        Ok(series.f64()?.iter().flatten().collect())
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let Some(series) = self.list(name)? else { return Ok(Vec::new()) };
        Ok(series.str()?.iter().flatten().map(str::to_string).collect())
    }

    fn key(&self) -> Result<GroupKey> {
        let text = |name: &str| self.text(name).map(|text| text.unwrap_or_default().to_string());
        let [model, mode, destination, cache_state, host, format, engine] = KEY.map(text);
        Ok(GroupKey {
            model: model?,
            mode: mode?,
            destination: destination?,
            cache_state: cache_state?,
            host: host?,
            format: format?,
            engine: engine?,
        })
    }

    fn group(&self, with_intervals: bool) -> Result<Group> {
        let samples_s = self.numbers("samples_s")?;
        let mut runs = self.texts("runs")?;
        runs.sort();
        Ok(Group {
            key: self.key()?,
            name: String::new(),
            figures: self.figures(&samples_s, with_intervals)?,
            samples_s,
            errors: self.count("errors")?,
            warm_by_mistake: self.count("warm_by_mistake")?,
            verified: self.count("verified")?,
            runs,
            // No load that knows its bytes: 0/0.
            gb_per_s: self.number("gb_per_s")?.filter(|rate| rate.is_finite()),
            tokens_per_s: self.number("tokens_per_s")?,
            speedup: self.speedup()?,
        })
    }

    fn figures(&self, samples_s: &[f64], with_intervals: bool) -> Result<Option<Figures>> {
        let Some(mean_s) = self.number("mean_s")? else { return Ok(None) };
        let known = |name: &str| self.number(name)?.with_context(|| format!("{name} is missing"));
        let of_median = known("p50_s")?;
        let [mean, median] = if with_intervals { self.intervals()? } else { [None, None] };
        let tail = |value: f64| Some(value).filter(|_| samples_s.len() >= TAIL_MIN_LOADS);
        let scale_s = (MAD_TO_STD * known("mad_s")?).max(MIN_SCALE_FRACTION * of_median);
        let limit_s = (of_median + THRESHOLD * scale_s).max(SLOW_FACTOR * of_median);
        let slow_loads = samples_s.iter().filter(|time_s| **time_s > limit_s).count();
        Ok(Some(Figures {
            mean: Estimate { value: mean_s, interval: mean },
            median: Estimate { value: of_median, interval: median },
            min_s: known("min_s")?,
            max_s: known("max_s")?,
            std_s: known("std_s")?,
            p95_s: tail(known("p95_s")?),
            p99_s: tail(known("p99_s")?),
            slow_loads: if samples_s.len() < MIN_VALUES { 0 } else { slow_loads },
        }))
    }

    /// Of mean and median.
    fn intervals(&self) -> Result<[Option<Interval>; 2]> {
        let Some(times) = self.list("time_by_run_s")? else { return Ok([None, None]) };
        let run_of = self.texts("run_of")?;
        let pairs = run_of.iter().zip(times.f64()?.iter());
        let pairs: Vec<(&String, f64)> = pairs.filter_map(|(run, time_s)| Some((run, time_s?))).collect();
        let runs =
            pairs.chunk_by(|a, b| a.0 == b.0).map(|run| run.iter().map(|(_, time_s)| *time_s).collect());
        mean_and_median(&runs.collect::<Vec<Vec<f64>>>(), RESAMPLES)
    }

    fn speedup(&self) -> Result<Option<Speedup>> {
        let Some(value) = self.number("speedup")? else { return Ok(None) };
        let interval = self.number("speedup_low")?.zip(self.number("speedup_high")?);
        Ok(Some(Speedup {
            ratio: Estimate { value, interval },
            baseline: self.text("baseline")?.unwrap_or_default().to_string(),
            is_paired: self.table.column("paired")?.bool()?.get(self.row) == Some(true),
            turns: self.count("turns")?,
            of_means: None,
        }))
    }
}

/// What the groups of a section get from one another: their names, and the ratios of their means.
fn compare_within(section: &mut [Group]) {
    let mean_s = |group: &Group| group.figures.as_ref().map(|figures| figures.mean.value);
    let all = section.to_vec();
    for group in section {
        let same_format = all.iter().filter(|other| other.key.format == group.key.format).count();
        group.name = match same_format {
            1 => group.key.format.clone(),
            _ => format!("{} ({})", group.key.format, group.key.engine),
        };
        let own_s = mean_s(group);
        let Some(speedup) = &mut group.speedup else { continue };
        let is_of = |other: &&Group| {
            other.key.is_baseline() && other.key.engine == speedup.baseline && other.runs == group.runs
        };
        speedup.of_means = all.iter().find(is_of).and_then(|baseline| Some(mean_s(baseline)? / own_s?));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::frame::test_loads::{Load, frame as loads_frame, loads};
    use crate::analyze::key::{BASELINE, SECTION};

    const RUST: &str = "baseline-rust";

    fn some(times: &[f64]) -> Vec<Option<f64>> {
        times.iter().copied().map(Some).collect()
    }

    fn of(format: &'static str, times: &[f64]) -> Vec<Load> {
        let engine = if format == BASELINE { RUST } else { "auto" };
        loads(format, engine, "r", &some(times))
    }

    fn grouped(all: &[Vec<Load>]) -> Vec<Group> {
        group(&loads_frame(&all.concat())).unwrap()
    }

    fn speedup_of(groups: &[Group], format: &str) -> Option<Speedup> {
        groups.iter().find(|group| group.key.format == format).unwrap().speedup.clone()
    }

    #[test]
    fn figures_by_hand() {
        let mut all = of("sllm", &[4.0, 1.0, 3.0, 2.0]);
        all.extend(loads("sllm", "auto", "r", &[None]));
        let groups = grouped(&[all]);
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        let figures = group.figures.as_ref().unwrap();
        assert_eq!((group.samples_s.as_slice(), group.errors), ([1.0, 2.0, 3.0, 4.0].as_slice(), 1));
        assert_eq!(
            (figures.mean.value, figures.min_s, figures.max_s, figures.median.value),
            (2.5, 1.0, 4.0, 2.5)
        );
        assert!((figures.std_s - 1.25f64.sqrt()).abs() < 1e-12);
        assert_eq!((figures.p95_s, figures.p99_s), (None, None));
        // 8 GB in 10 s.
        assert!((group.gb_per_s.unwrap() - 0.8).abs() < 1e-12);
        let twenty: Vec<f64> = (0..20).map(f64::from).map(|n| n + 1.0).collect();
        let figures = grouped(&[of("sllm", &twenty)])[0].figures.clone().unwrap();
        // Ranks 18.05 and 18.81 of 0..=19.
        assert!(
            (figures.p95_s.unwrap() - 19.05).abs() < 1e-12 && (figures.p99_s.unwrap() - 19.81).abs() < 1e-12
        );
    }

    #[test]
    fn a_speedup_is_the_median_of_the_ratios_by_turn() {
        // Both drift by ten; the ratios are 2, 2, 2, 3 and 2.
        let groups = grouped(&[
            of("sllm", &[1.0, 10.0, 1.0, 10.0, 1.0]),
            of("safetensors", &[2.0, 20.0, 2.0, 30.0, 2.0]),
        ]);
        assert_eq!(groups.iter().map(|g| g.key.format.as_str()).collect::<Vec<_>>(), ["sllm", "safetensors"]);
        let speedup = speedup_of(&groups, "sllm").unwrap();
        assert_eq!((speedup.ratio.value, speedup.turns, speedup.is_paired), (2.0, 5, true));
        assert_eq!(speedup.ratio.interval.map(|(low, high)| (low, high <= 3.0)), Some((2.0, true)));
        assert_eq!((speedup.baseline.as_str(), speedup.shown()), (RUST, Shown::Faster));
        assert!((speedup.of_means.unwrap() - 56.0 / 23.0).abs() < 1e-12);
        assert!(speedup_of(&groups, "safetensors").is_none());
    }

    #[test]
    fn a_failed_load_drops_its_turn() {
        let own = loads("sllm", "auto", "r", &[Some(1.0), None, Some(1.0)]);
        let baseline = loads("safetensors", RUST, "r", &[Some(3.0), Some(90.0), None]);
        let speedup = speedup_of(&grouped(&[own, baseline]), "sllm").unwrap();
        assert_eq!((speedup.ratio, speedup.turns), (Estimate { value: 3.0, interval: None }, 1));
        assert_eq!(speedup.shown(), Shown::NotKnown);
    }

    #[test]
    fn an_interval_that_holds_one_shows_no_difference() {
        let groups =
            grouped(&[of("sllm", &[1.0, 1.1, 0.9, 1.0, 1.2]), of("safetensors", &[1.1, 1.0, 1.0, 0.9, 1.2])]);
        assert_eq!(speedup_of(&groups, "sllm").unwrap().shown(), Shown::NoDifference);
        let groups = grouped(&[of("sllm", &[2.0; 5]), of("safetensors", &[1.0; 5])]);
        assert_eq!(speedup_of(&groups, "sllm").unwrap().shown(), Shown::Slower);
    }

    #[test]
    fn loads_of_two_runs_are_not_held_against_each_other() {
        let own = loads("sllm", "auto", "a", &some(&[1.0; 5]));
        let baseline = loads("safetensors", RUST, "b", &some(&[9.0; 5]));
        assert!(speedup_of(&grouped(&[own.clone(), baseline.clone()]), "sllm").is_none());
        // A baseline in its own run is what it is compared with, however another run came out.
        let groups = grouped(&[own, baseline, loads("safetensors", RUST, "a", &some(&[2.0; 5]))]);
        let speedup = speedup_of(&groups, "sllm").unwrap();
        assert_eq!((speedup.ratio.value, speedup.turns, speedup.of_means), (2.0, 5, None));
    }

    #[test]
    fn several_runs_are_compared_each_with_itself() {
        let runs = [("a", 1.0), ("b", 5.0)].map(|(run, base)| {
            let own = loads("sllm", "auto", run, &some(&[base; 3]));
            [own, loads("safetensors", RUST, run, &some(&[base * 2.0; 3]))].concat()
        });
        let speedup = speedup_of(&grouped(&runs), "sllm").unwrap();
        assert_eq!((speedup.ratio, speedup.turns), (Estimate { value: 2.0, interval: Some((2.0, 2.0)) }, 6));
    }

    #[test]
    fn loads_without_turns_are_compared_by_their_medians() {
        let own = loads("sllm", "", "", &some(&[1.0, 1.0, 9.0, 1.0, 1.0]));
        let baseline = loads("safetensors", "", "", &some(&[4.0, 4.0, 4.0, 5.0, 3.0]));
        let speedup = speedup_of(&grouped(&[own, baseline]), "sllm").unwrap();
        assert_eq!((speedup.ratio.value, speedup.is_paired, speedup.turns), (4.0, false, 5));
        assert!(speedup.ratio.interval.is_some());
    }

    #[test]
    fn of_two_baselines_the_faster_counts_and_is_named() {
        let python = loads("safetensors", "baseline-python", "r", &some(&[6.0; 5]));
        let groups = grouped(&[of("sllm", &[1.0; 5]), of("safetensors", &[10.0; 5]), python]);
        let speedup = speedup_of(&groups, "sllm").unwrap();
        assert_eq!((speedup.ratio.value, speedup.baseline.as_str()), (6.0, "baseline-python"));
    }

    #[test]
    fn files_that_were_copied_give_each_turn_once_and_order_changes_nothing() {
        let (own, baseline) =
            (of("sllm", &[1.0, 1.5, 0.8, 1.1, 0.9]), of("safetensors", &[9.0, 10.0, 8.0, 9.5, 9.0]));
        let once = speedup_of(&grouped(&[own.clone(), baseline.clone()]), "sllm").unwrap();
        let mut twice = [own.clone(), baseline.clone(), own, baseline].concat();
        twice.reverse();
        let twice = speedup_of(&grouped(&[twice]), "sllm").unwrap();
        assert_eq!((once.ratio, once.turns), (twice.ratio, twice.turns));
    }

    #[test]
    fn slow_loads_are_told_by_how_slow() {
        let group = &grouped(&[of("sllm", &[1.0, 1.01, 0.99, 1.0, 4.5])])[0];
        assert_eq!(group.slow_factors(), [4.5]);
        // Far off for loads so alike, and nobody cares.
        assert!(grouped(&[of("sllm", &[1.0, 1.0, 1.0, 1.0, 1.2])])[0].slow_factors().is_empty());
        assert!(grouped(&[of("sllm", &[1.0, 100.0])])[0].slow_factors().is_empty());
    }

    #[test]
    fn a_group_of_errors_has_no_figures() {
        let groups = grouped(&[loads("sllm", "", "", &[None])]);
        assert!(groups[0].figures.is_none() && groups[0].samples_s.is_empty() && groups[0].errors == 1);
    }

    #[test]
    fn intervals_end_where_they_would_take_minutes() {
        let groups = grouped(&[of("sllm", &vec![1.0; INTERVALS_MAX_LOADS]), of("safetensors", &[10.0; 5])]);
        let ratio = speedup_of(&groups, "sllm").unwrap().ratio;
        assert_eq!(ratio, Estimate { value: 10.0, interval: None });
        assert!(groups[1].figures.as_ref().unwrap().mean.interval.is_none());
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for time_s in [f64::MAX, f64::MIN_POSITIVE, 1e-300] {
            assert_eq!(grouped(&[of("sllm", &[time_s; 3]), of("safetensors", &[1.0; 3])]).len(), 2);
        }
        assert_eq!(SECTION.len() + 2, KEY.len());
    }
}

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

use crate::analyze::figures::group::{Figures, Group, MIN_VALUES, SLOW_FACTOR, Speedup, TAIL_MIN_LOADS};
use crate::analyze::figures::resample::{
    Estimate, INTERVALS_MAX_LOADS, Interval, RESAMPLES, mean_and_median,
};
use crate::analyze::figures::turns::speedups;
use crate::analyze::frame::{Row, rows};
use crate::analyze::key::KEY;
use crate::os::parallel;

/// Every group, section by section, in each the fastest first and last those without a load that succeeded.
pub fn group(loads: &DataFrame) -> Result<Vec<Group>> {
    let with_intervals = loads.height() <= INTERVALS_MAX_LOADS;
    let table = aggregate(loads, with_intervals)?;
    let speedups = speedups(loads, with_intervals)?;
    let groups = parallel::map(&rows(&table), |row| {
        let speedup = speedups.get(&row.key()?).cloned();
        of_row(row, speedup, with_intervals)
    });
    let mut groups = groups.into_iter().collect::<Result<Vec<_>>>()?;
    groups.sort_by(|a, b| {
        let time = |group: &Group| group.median_s().unwrap_or(f64::INFINITY);
        let section = a.key.section().cmp(&b.key.section());
        section.then(time(a).total_cmp(&time(b))).then(a.key.cmp(&b.key))
    });
    groups.chunk_by_mut(|a, b| a.key.section() == b.key.section()).for_each(compare_within);
    Ok(groups)
}

/// One row a group, with each figure as a column.
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
        let sorted = |what: &str| col(what).sort_by([col("run"), time()], SortMultipleOptions::default());
        let by_run = |what: &str| sorted(what).filter(sorted("time_s").is_not_null());
        figures.extend([by_run("run").alias("run_of"), by_run("time_s").alias("time_by_run_s")]);
    }
    Ok(loads.clone().lazy().group_by(KEY.map(col)).agg(figures).collect()?)
}

/// How far apart two numbers are.
fn distance(a: Expr, b: Expr) -> Expr {
    when(a.clone().gt(b.clone())).then(a.clone() - b.clone()).otherwise(b - a)
}

fn of_row(row: &Row, speedup: Option<Speedup>, with_intervals: bool) -> Result<Group> {
    let samples_s = row.numbers("samples_s")?;
    let mut runs = row.texts("runs")?;
    runs.sort();
    Ok(Group {
        key: row.key()?,
        name: String::new(),
        figures: figures(row, &samples_s, with_intervals)?,
        samples_s,
        errors: row.count("errors")?,
        warm_by_mistake: row.count("warm_by_mistake")?,
        verified: row.count("verified")?,
        runs,
        // No load that knows its bytes: 0/0.
        gb_per_s: row.number("gb_per_s")?.filter(|rate| rate.is_finite()),
        tokens_per_s: row.number("tokens_per_s")?,
        speedup,
    })
}

fn figures(row: &Row, samples_s: &[f64], with_intervals: bool) -> Result<Option<Figures>> {
    let Some(mean_s) = row.number("mean_s")? else { return Ok(None) };
    let known = |name: &str| row.number(name)?.with_context(|| format!("{name} is missing"));
    let median_s = known("p50_s")?;
    let [mean, median] = if with_intervals { intervals(row)? } else { [None, None] };
    let tail = |value: f64| Some(value).filter(|_| samples_s.len() >= TAIL_MIN_LOADS);
    let mut figures = Figures {
        mean: Estimate { value: mean_s, interval: mean },
        median: Estimate { value: median_s, interval: median },
        min_s: known("min_s")?,
        max_s: known("max_s")?,
        std_s: known("std_s")?,
        mad_s: known("mad_s")?,
        p95_s: tail(known("p95_s")?),
        p99_s: tail(known("p99_s")?),
        slow_loads: 0,
    };
    if samples_s.len() >= MIN_VALUES {
        let limit_s = figures.limit_s().max(SLOW_FACTOR * median_s);
        figures.slow_loads = samples_s.iter().filter(|time_s| **time_s > limit_s).count();
    }
    Ok(Some(figures))
}

/// Of mean and median.
fn intervals(row: &Row) -> Result<[Option<Interval>; 2]> {
    let (run_of, times) = (row.texts("run_of")?, row.numbers("time_by_run_s")?);
    let pairs: Vec<(&String, f64)> = run_of.iter().zip(times).collect();
    let runs = pairs.chunk_by(|a, b| a.0 == b.0).map(|run| run.iter().map(|(_, time_s)| *time_s).collect());
    mean_and_median(&runs.collect::<Vec<Vec<f64>>>(), RESAMPLES)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::figures::group::Shown;
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

//! Load times now against load times before: a join of the groups of both sides.
//!
//! A group regressed where its median load time grew by more than the limit and the 95 % intervals of both medians are
//! apart. Beyond the limit with intervals that overlap, or with too few loads for them, it is inconclusive, which is said
//! and passes. Where a side has several runs its interval is over runs, and over turns within each.

use anyhow::{Result, bail};
use polars::prelude::*;
use serde_json::{Value, json};

use crate::analyze::figures::group::{Figures, Group, key_columns};
use crate::analyze::figures::resample::{Estimate, MIN_TURNS};
use crate::analyze::frame::rows;
use crate::analyze::key::{GroupKey, KEY};
use crate::os::text;

/// Keeps rounding from calling a growth of exactly the limit a regression.
const ROUNDING: f64 = 1e-9;

/// Every group of either side.
#[derive(Debug)]
pub struct Comparison {
    /// A share: 0.1 is 10 %.
    pub max_regression: f64,
    pub pairs: Vec<Pair>,
    only_before: Vec<GroupKey>,
    only_now: Vec<GroupKey>,
}

/// A group that stands on both sides. Figures are absent where every load failed.
#[derive(Debug)]
pub struct Pair {
    pub key: GroupKey,
    pub before: Option<Figures>,
    pub now: Option<Figures>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Within,
    Regressed,
    /// Beyond the limit, and it may be chance.
    Inconclusive,
    /// It loaded before; now every load fails.
    Broken,
    /// Nothing to hold it against.
    NoBefore,
}

impl Verdict {
    pub fn is_bad(self) -> bool {
        matches!(self, Verdict::Regressed | Verdict::Broken)
    }

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Within => "ok",
            Verdict::Regressed => "REGRESSED",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Broken => "BROKEN",
            Verdict::NoBefore => "no baseline",
        }
    }
}

/// What two medians come to. `max_regression` is the share by which one may grow.
pub fn judge(before: Option<Estimate>, now: Option<Estimate>, max_regression: f64) -> Verdict {
    match (before, now) {
        (None, _) => Verdict::NoBefore,
        (Some(_), None) => Verdict::Broken,
        (Some(before), Some(now)) if now.value / before.value - 1.0 <= max_regression + ROUNDING => {
            Verdict::Within
        }
        (Some(before), Some(now)) => match before.interval.zip(now.interval) {
            Some(((_, high), (low, _))) if low > high => Verdict::Regressed,
            _ => Verdict::Inconclusive,
        },
    }
}

/// Pairs groups by their keys. Fails when no group stands on both sides, since then nothing was compared.
pub fn compare(before: &[Group], now: &[Group], max_regression: f64) -> Result<Comparison> {
    let side = |groups: &[Group], row: &str| -> Result<LazyFrame> {
        let mut keys = key_columns(groups.iter().map(|group| Some(&group.key)))?;
        keys.with_column(Column::new(row.into(), (0..groups.len() as u64).collect::<Vec<_>>()))?;
        Ok(keys.lazy().with_columns(KEY.map(|name| col(name).fill_null(lit("")))))
    };
    let how = JoinArgs::new(JoinType::Full);
    let joined = side(now, "now")?
        .join(side(before, "before")?, KEY.map(col), KEY.map(col), how)
        .sort(["now", "before"], SortMultipleOptions::default().with_nulls_last(true))
        .collect()?;
    let mut comparison =
        Comparison { max_regression, pairs: Vec::new(), only_before: Vec::new(), only_now: Vec::new() };
    for row in rows(&joined) {
        let before = row.index("before")?.and_then(|index| before.get(index));
        match (before, row.index("now")?.and_then(|index| now.get(index))) {
            (Some(before), Some(now)) => {
                let (before, figures) = (before.figures.clone(), now.figures.clone());
                let median = |figures: &Option<Figures>| figures.as_ref().map(|figures| figures.median);
                let verdict = judge(median(&before), median(&figures), max_regression);
                comparison.pairs.push(Pair { key: now.key.clone(), before, now: figures, verdict });
            }
            (Some(before), None) => comparison.only_before.push(before.key.clone()),
            (None, Some(now)) => comparison.only_now.push(now.key.clone()),
            (None, None) => {}
        }
    }
    if comparison.pairs.is_empty() {
        let missing = text::in_short(&comparison.missing());
        bail!("nothing to compare: results and baseline share no group: {missing}");
    }
    Ok(comparison)
}

impl Pair {
    /// The share by which the median grew.
    pub fn growth(&self) -> Option<f64> {
        Some(self.now.as_ref()?.median.value / self.before.as_ref()?.median.value - 1.0)
    }

    /// Whether the medians' intervals share a point; `None` where a side has no interval.
    pub fn intervals_overlap(&self) -> Option<bool> {
        let (before, now) = (self.before.as_ref()?.median.interval?, self.now.as_ref()?.median.interval?);
        Some(before.0 <= now.1 && now.0 <= before.1)
    }
}

impl Comparison {
    /// Whether any group got slower by more than allowed, or stopped loading.
    pub fn regressed(&self) -> bool {
        self.pairs.iter().any(|pair| pair.verdict.is_bad())
    }

    /// A line for each group that stands on one side only.
    pub fn missing(&self) -> Vec<String> {
        let only = |keys: &[GroupKey], side: &str| -> Vec<String> {
            keys.iter().map(|key| format!("only in the {side}: {}", key.title())).collect()
        };
        [only(&self.only_before, "baseline"), only(&self.only_now, "new results")].concat()
    }

    /// A row for each group that stands on both sides.
    pub fn frame(&self) -> Result<DataFrame> {
        let pairs = &self.pairs;
        let figure = |get: fn(&Pair) -> Option<f64>| -> Vec<Option<f64>> { pairs.iter().map(get).collect() };
        let figures = df![
            "median_before_s" => figure(|pair| Some(pair.before.as_ref()?.median.value)),
            "median_before_low_s" => figure(|pair| Some(pair.before.as_ref()?.median.interval?.0)),
            "median_before_high_s" => figure(|pair| Some(pair.before.as_ref()?.median.interval?.1)),
            "median_now_s" => figure(|pair| Some(pair.now.as_ref()?.median.value)),
            "median_now_low_s" => figure(|pair| Some(pair.now.as_ref()?.median.interval?.0)),
            "median_now_high_s" => figure(|pair| Some(pair.now.as_ref()?.median.interval?.1)),
            "mean_before_s" => figure(|pair| Some(pair.before.as_ref()?.mean.value)),
            "mean_now_s" => figure(|pair| Some(pair.now.as_ref()?.mean.value)),
            "growth_fraction" => figure(Pair::growth),
            "intervals_overlap" => pairs.iter().map(Pair::intervals_overlap).collect::<Vec<_>>(),
            "regressed" => pairs.iter().map(|pair| pair.verdict.is_bad()).collect::<Vec<_>>(),
            "verdict" => pairs.iter().map(|pair| pair.verdict.word().to_lowercase()).collect::<Vec<_>>(),
        ]?;
        Ok(key_columns(pairs.iter().map(|pair| Some(&pair.key)))?.hstack(figures.columns())?)
    }

    /// `pairs`: the rows of the frame.
    pub fn json(&self, pairs: Vec<serde_json::Map<String, Value>>) -> Value {
        let pair = |(pair, mut row): (&Pair, serde_json::Map<String, Value>)| {
            KEY.iter().for_each(|name| drop(row.remove(*name)));
            row.insert("group".into(), json!(pair.key));
            row
        };
        json!({
            "max_regression_fraction": self.max_regression,
            "min_loads_a_side": MIN_TURNS,
            "regressed": self.regressed(),
            "pairs": self.pairs.iter().zip(pairs).map(pair).collect::<Vec<_>>(),
            "only_in_baseline": self.only_before,
            "only_in_new_results": self.only_now,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::analyze::figures::groups;
    use crate::analyze::figures::resample::{SplitMix64, mean_and_median};
    use crate::analyze::frame::test_loads::{frame, loads};
    use crate::os::parallel;
    use crate::record::median::median;

    fn groups(format: &'static str, times: &[Option<f64>]) -> Vec<Group> {
        groups::group(&frame(&loads(format, "", "r", times))).unwrap()
    }

    fn verdict(before: &[f64], now: &[f64]) -> Verdict {
        let [before, now] = [before, now].map(|times| times.iter().copied().map(Some).collect::<Vec<_>>());
        compare(&groups("sllm", &before), &groups("sllm", &now), 0.1).unwrap().pairs[0].verdict
    }

    #[test]
    fn growth_past_the_limit_regresses_where_the_intervals_are_apart() {
        assert_eq!(verdict(&[1.0; 5], &[1.1; 5]), Verdict::Within);
        assert_eq!(verdict(&[1.0; 5], &[0.5; 5]), Verdict::Within);
        assert_eq!(verdict(&[1.0; 5], &[1.2; 5]), Verdict::Regressed);
        let noisy = verdict(&[1.0, 1.0, 1.0, 3.0, 3.0], &[1.0, 1.0, 1.5, 3.0, 3.0]);
        assert_eq!(noisy, Verdict::Inconclusive);
        // One slow load changes nothing, though it moves the mean by far more than the limit.
        assert_eq!(verdict(&[1.0; 5], &[1.0, 1.0, 1.0, 1.0, 9.0]), Verdict::Within);
    }

    #[test]
    fn few_loads_never_regress() {
        assert_eq!(verdict(&[1.0; 4], &[9.0; 5]), Verdict::Inconclusive);
        assert_eq!(verdict(&[1.0], &[2.0]), Verdict::Inconclusive);
    }

    #[test]
    fn several_runs_of_the_baseline_count_as_such() {
        let run = |run, time_s: f64| loads("sllm", "", run, &[Some(time_s); 5]);
        let now = groups("sllm", &[Some(1.2); 5]);
        let against = |runs: &[Vec<_>]| {
            let before = groups::group(&frame(&runs.concat())).unwrap();
            compare(&before, &now, 0.1).unwrap().pairs[0].verdict
        };
        assert_eq!(against(&[run("a", 1.0), run("b", 1.0), run("c", 1.0)]), Verdict::Regressed);
        // One run in three came out as slow: that is how this machine is.
        assert_eq!(against(&[run("a", 1.0), run("b", 1.0), run("c", 1.2)]), Verdict::Inconclusive);
    }

    #[test]
    fn loads_that_all_fail_now_are_a_regression() {
        let broken = compare(&groups("sllm", &[Some(1.0)]), &groups("sllm", &[None]), 0.1).unwrap();
        assert!(broken.regressed() && broken.pairs[0].verdict == Verdict::Broken);
        assert!(!compare(&groups("sllm", &[None]), &groups("sllm", &[Some(1.0)]), 0.1).unwrap().regressed());
    }

    #[test]
    fn groups_on_one_side_are_named() {
        let before = [groups("a", &[Some(1.0)]), groups("b", &[Some(1.0)])].concat();
        let now = [groups("b", &[Some(1.0)]), groups("c", &[Some(1.0)])].concat();
        let comparison = compare(&before, &now, 0.1).unwrap();
        let missing = comparison.missing().join("\n");
        assert!(
            missing.contains("only in the baseline: m, cached, to host memory, page cache warm: a"),
            "{missing}"
        );
        assert!(missing.contains("only in the new results") && comparison.pairs.len() == 1, "{missing}");
        let error = compare(&before[..1], &now[1..], 0.1).unwrap_err().to_string();
        assert!(error.contains("share no group"), "{error}");
    }

    /// Recorded load times of one build, one run.
    fn recorded(file: &str) -> Vec<f64> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benchmarks/results").join(file);
        let loads = crate::analyze::input::read(&[path]).unwrap().loads;
        loads.column("time_s").unwrap().f64().unwrap().iter().flatten().collect()
    }

    /// In which share of a thousand comparisons of as many turns, drawn from what one build did, the gate of 10 % calls the
    /// second side regressed, whose times are taken `slower` times.
    fn share_regressed(times: &[f64], turns: usize, slower: f64) -> f64 {
        let side = |random: &mut SplitMix64, factor: f64| {
            let mut drawn = Vec::new();
            random.values(times, &mut drawn);
            drawn.truncate(turns);
            drawn.iter_mut().for_each(|time_s| *time_s *= factor);
            drawn.sort_by(f64::total_cmp);
            let value = median(&drawn).unwrap();
            let interval = mean_and_median(&[drawn], 200).unwrap()[1];
            Some(Estimate { value, interval })
        };
        let trials: Vec<u64> = (0..1000).collect();
        let regressed = parallel::map(&trials, |trial| {
            let mut random = SplitMix64(trial << 32);
            let (before, now) = (side(&mut random, 1.0), side(&mut random, slower));
            judge(before, now, 0.1) == Verdict::Regressed
        });
        regressed.into_iter().filter(|regressed| *regressed).count() as f64 / trials.len() as f64
    }

    /// Cold loads of one H200, which spread by 3 %.
    #[test]
    fn five_turns_find_a_slowdown_of_15_percent_and_raise_no_false_alarm() {
        let times =
            recorded("h200-2026-11-24/qualify/synthetic_facebook_opt-6.7b@0.64_sllm_1_qualify-cold.json");
        assert_eq!(times.len(), 50);
        let (alarms, found) =
            (share_regressed(&times, MIN_TURNS, 1.0), share_regressed(&times, MIN_TURNS, 1.15));
        assert!(alarms <= 0.01 && found >= 0.9, "{alarms} {found}");
    }

    /// Loads into host memory of a small virtual machine, single ones of which take three times as long.
    #[test]
    fn noise_raises_no_false_alarm() {
        for (format, turns) in [("sllm", MIN_TURNS), ("safetensors", MIN_TURNS), ("safetensors-direct", 12)] {
            let file = format!("cpu-2026-11-24/synthetic_facebook_opt-6.7b@0.125_{format}_12_cached.json");
            let alarms = share_regressed(&recorded(&file), turns, 1.0);
            assert!(alarms <= 0.01, "{format}, {turns} turns: {alarms}");
        }
    }
}

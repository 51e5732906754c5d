//! Speedups over SafeTensors, turn by turn.
//!
//! A turn is a run's iteration, in which each format loads once. A format's speedup is the median, over the turns that it
//! and the baseline both came through, of the baseline's time over its own: what drifts from turn to turn, or from run to
//! run, falls out. Records without a run or an iteration, as ServerlessLLM's, have no turns: the ratio of the medians
//! stands for them, marked as not paired. Loads of two runs are never held against each other, since nobody made that
//! comparison, not even on one machine. Of two baselines the one that leaves the smaller speedup counts.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use polars::prelude::*;

use crate::analyze::figures::group::Speedup;
use crate::analyze::figures::resample::{RESAMPLES, Ratios, median_ratio};
use crate::analyze::frame::rows;
use crate::analyze::key::{BASELINE, GroupKey, KEY, SECTION};
use crate::os::parallel;

/// Of each group that has one; without the ratio of the means.
pub fn speedups(loads: &DataFrame, with_intervals: bool) -> Result<HashMap<GroupKey, Speedup>> {
    let usable = loads.clone().lazy().filter(col("time_s").is_not_null());
    let in_turn = || col("run").neq(lit("")).and(col("iteration").is_not_null());
    let mut all = estimates(paired(usable.clone().filter(in_turn())), true, with_intervals)?;
    all.extend(estimates(unpaired(usable.filter(in_turn().not())), false, with_intervals)?);
    all.sort_by(|(_, a), (_, b)| b.is_paired.cmp(&a.is_paired).then(a.ratio.value.total_cmp(&b.ratio.value)));
    let mut best = HashMap::new();
    for (key, speedup) in all {
        best.entry(key).or_insert(speedup);
    }
    Ok(best)
}

fn columns(names: &[&[&str]]) -> Vec<Expr> {
    names.concat().into_iter().map(col).collect()
}

/// A row for each group, baseline and run: the ratios by turn.
fn paired(loads: LazyFrame) -> LazyFrame {
    let turn = columns(&[&SECTION, &["run", "iteration"]]);
    let is_baseline = || col("format").eq(lit(BASELINE));
    let own =
        loads.clone().filter(is_baseline().not()).select(columns(&[&KEY, &["run", "iteration", "time_s"]]));
    let baseline = [col("engine").alias("baseline"), col("time_s").alias("baseline_s")];
    let baseline = loads.filter(is_baseline()).select([turn.clone(), baseline.to_vec()].concat());
    own.join(baseline, turn.clone(), turn, JoinArgs::new(JoinType::Inner))
        .with_column((col("baseline_s") / col("time_s")).alias("ratio"))
        // A run's files that were copied give each turn more than once.
        .group_by(columns(&[&KEY, &["baseline", "run", "iteration"]]))
        .agg([col("ratio").median()])
        .group_by(columns(&[&KEY, &["baseline", "run"]]))
        .agg([col("ratio").sort(SortOptions::default()).alias("ratios")])
}

/// A row for each group, baseline and run: the loads of both.
fn unpaired(loads: LazyFrame) -> LazyFrame {
    let at = columns(&[&SECTION, &["run"]]);
    let is_baseline = || col("format").eq(lit(BASELINE));
    let times = |name: &str| col("time_s").sort(SortOptions::default()).alias(name);
    let own =
        loads.clone().filter(is_baseline().not()).group_by(columns(&[&KEY, &["run"]])).agg([times("own")]);
    let baseline = loads
        .filter(is_baseline())
        .group_by([at.clone(), vec![col("engine").alias("baseline")]].concat())
        .agg([times("ratios")]);
    own.join(baseline, at.clone(), at, JoinArgs::new(JoinType::Inner))
}

/// Of each group and baseline, over all its runs.
fn estimates(runs: LazyFrame, is_paired: bool, with_intervals: bool) -> Result<Vec<(GroupKey, Speedup)>> {
    let runs = runs.sort(["run"], SortMultipleOptions::default()).collect()?;
    let mut all: BTreeMap<(GroupKey, String), Vec<Ratios>> = BTreeMap::new();
    for row in rows(&runs) {
        let ratios = row.numbers("ratios")?;
        let ratios = match is_paired {
            true => Ratios::Paired(ratios),
            false => Ratios::Unpaired(ratios, row.numbers("own")?),
        };
        all.entry((row.key()?, row.text("baseline")?)).or_default().push(ratios);
    }
    let all: Vec<_> = all.into_iter().collect();
    let found = parallel::map(&all, |((key, baseline), runs)| {
        let Some(ratio) = median_ratio(runs, RESAMPLES, with_intervals)? else { return Ok(None) };
        let (baseline, turns) = (baseline.clone(), runs.iter().map(Ratios::turns).sum());
        Ok(Some((key.clone(), Speedup { ratio, baseline, is_paired, turns, of_means: None })))
    });
    Ok(found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

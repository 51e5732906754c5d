//! Speedups over SafeTensors, turn by turn.
//!
//! A turn is a run's iteration, in which each format loads once. A format's speedup is the median, over the turns that it
//! and the baseline both came through, of the baseline's time over its own: what drifts from turn to turn, or from run to
//! run, falls out. Records without a run or an iteration, as ServerlessLLM's, have no turns: the ratio of the medians
//! stands for them, marked as not paired. Loads of two runs are never held against each other, since nobody made that
//! comparison, not even on one machine. Of two baselines the one that leaves the smaller speedup counts.

use anyhow::Result;
use polars::prelude::*;

use crate::analyze::figures::resample::{Estimate, RESAMPLES, Ratios, median_ratio};
use crate::analyze::key::{BASELINE, KEY, SECTION};
use crate::os::parallel;

/// A row a group that has a speedup: its key, `baseline` (an engine), `paired`, `turns`, `speedup`, `speedup_low`,
/// `speedup_high`.
pub fn speedups(loads: &DataFrame, with_intervals: bool) -> Result<DataFrame> {
    let usable = loads.clone().lazy().filter(col("time_s").is_not_null());
    let in_turn = || col("run").neq(lit("")).and(col("iteration").is_not_null());
    let mut all = estimates(&paired(usable.clone().filter(in_turn())).collect()?, true, with_intervals)?;
    all.vstack_mut(&estimates(&unpaired(usable.filter(in_turn().not())).collect()?, false, with_intervals)?)?;
    let figures = ["baseline", "paired", "turns", "speedup", "speedup_low", "speedup_high"];
    let best = all
        .lazy()
        .sort(
            ["paired", "speedup"],
            SortMultipleOptions::default().with_order_descending_multi([true, false]),
        )
        .group_by(KEY.map(col))
        .agg(figures.map(|name| col(name).first()));
    Ok(best.collect()?)
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

/// A row for each group and baseline, over all its runs.
fn estimates(runs: &DataFrame, paired: bool, with_intervals: bool) -> Result<DataFrame> {
    let of: Vec<&str> = [&KEY[..], &["baseline"]].concat();
    let runs = runs.sort([&of[..], &["run"]].concat(), SortMultipleOptions::default())?;
    let mut values = Vec::with_capacity(runs.height());
    for row in 0..runs.height() {
        let list = |name: &str| -> Result<Vec<f64>> {
            let series = runs.column(name)?.list()?.get_as_series(row);
            Ok(series
                .map(|series| series.f64().map(|values| values.iter().flatten().collect()))
                .transpose()?
                .unwrap_or_default())
        };
        values.push(if paired {
            Ratios::Paired(list("ratios")?)
        } else {
            Ratios::Unpaired(list("ratios")?, list("own")?)
        });
    }
    let key: Vec<Column> = of.iter().map(|name| runs.column(name).cloned()).collect::<PolarsResult<_>>()?;
    let text = |row: usize| key.iter().map(move |column| column.str().ok().and_then(|texts| texts.get(row)));
    let rows: Vec<usize> = (0..runs.height()).collect();
    let groups: Vec<&[usize]> = rows.chunk_by(|a, b| text(*a).eq(text(*b))).collect();
    let found = parallel::map(&groups, |rows| {
        let runs = rows.first().zip(rows.last()).and_then(|(first, last)| values.get(*first..=*last));
        let runs = runs.unwrap_or_default();
        Ok((runs.iter().map(Ratios::turns).sum::<usize>(), median_ratio(runs, RESAMPLES, with_intervals)?))
    });
    let found = found.into_iter().collect::<Result<Vec<(usize, Option<Estimate>)>>>()?;
    let figure = |get: fn(&Estimate) -> Option<f64>| -> Vec<Option<f64>> {
        found.iter().map(|(_, estimate)| estimate.as_ref().and_then(get)).collect()
    };
    let mut columns: Vec<Column> = Vec::new();
    for (name, column) in of.iter().zip(&key) {
        let texts = column.str()?;
        let first: Vec<Option<&str>> = groups.iter().map(|rows| texts.get(*rows.first()?)).collect();
        columns.push(Column::new((*name).into(), first));
    }
    columns.push(Column::new("paired".into(), vec![paired; groups.len()]));
    columns
        .push(Column::new("turns".into(), found.iter().map(|(turns, _)| *turns as u64).collect::<Vec<_>>()));
    columns.push(Column::new("speedup".into(), figure(|estimate| Some(estimate.value))));
    columns.push(Column::new("speedup_low".into(), figure(|estimate| Some(estimate.interval?.0))));
    columns.push(Column::new("speedup_high".into(), figure(|estimate| Some(estimate.interval?.1))));
    Ok(DataFrame::new_infer_height(columns)?)
}

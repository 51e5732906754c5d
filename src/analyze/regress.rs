//! Load times now against load times before.

use anyhow::{Result, bail};
use polars::prelude::*;
use serde_json::{Value, json};

use crate::analyze::group_key::GroupKey;
use crate::analyze::stats::{Estimate, Group};
use crate::analyze::table::{Line, align, frame_csv, pipes, seconds};
use crate::os::text;

/// Keeps rounding from calling a growth of exactly the limit a regression.
const ROUNDING: f64 = 1e-9;

/// Every group of either side.
#[derive(Debug)]
pub struct Comparison {
    /// A share: 0.1 is 10 %.
    max_regression: f64,
    pairs: Vec<Pair>,
    only_before: Vec<GroupKey>,
    only_now: Vec<GroupKey>,
}

/// A group that stands on both sides. A mean is absent where every load failed.
#[derive(Debug)]
struct Pair {
    key: GroupKey,
    before: Option<Estimate>,
    now: Option<Estimate>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Within,
    Regressed,
    /// It loaded before; now every load fails.
    Broken,
    /// Nothing to hold it against.
    NoBefore,
}

impl Change {
    fn is_bad(self) -> bool {
        matches!(self, Change::Regressed | Change::Broken)
    }
}

/// Pairs groups by their keys. `max_regression` is the share by which a mean may grow.
/// Fails when no group stands on both sides, since then nothing was compared.
pub fn compare(before: &[Group], now: &[Group], max_regression: f64) -> Result<Comparison> {
    let mean = |group: &Group| group.figures.as_ref().map(|figures| figures.mean);
    // Groups are sorted by their keys.
    let find = |key: &GroupKey, side: &[Group]| {
        let place = side.binary_search_by(|group| group.key.cmp(key)).ok()?;
        side.get(place).map(mean)
    };
    let mut comparison =
        Comparison { max_regression, pairs: Vec::new(), only_before: Vec::new(), only_now: Vec::new() };
    for group in now {
        match find(&group.key, before) {
            Some(before) => {
                comparison.pairs.push(Pair { key: group.key.clone(), before, now: mean(group) });
            }
            None => comparison.only_now.push(group.key.clone()),
        }
    }
    let missing = before.iter().filter(|group| find(&group.key, now).is_none());
    comparison.only_before = missing.map(|group| group.key.clone()).collect();
    if comparison.pairs.is_empty() {
        let missing = text::in_short(&comparison.missing());
        bail!("nothing to compare: results and baseline share no group: {missing}");
    }
    Ok(comparison)
}

impl Pair {
    /// The share by which the mean grew.
    fn growth(&self) -> Option<f64> {
        Some(self.now?.value / self.before?.value - 1.0)
    }

    fn change(&self, max_regression: f64) -> Change {
        match (self.before, self.now, self.growth()) {
            (None, _, _) => Change::NoBefore,
            (Some(_), None, _) => Change::Broken,
            (_, _, Some(growth)) if growth > max_regression + ROUNDING => Change::Regressed,
            _ => Change::Within,
        }
    }

    /// Whether the means' intervals share a point; `None` where a side has no interval.
    fn intervals_overlap(&self) -> Option<bool> {
        let ((low_a, high_a), (low_b, high_b)) = (self.before?.interval?, self.now?.interval?);
        Some(low_a <= high_b && low_b <= high_a)
    }

    fn overlap_words(&self) -> &'static str {
        match self.intervals_overlap() {
            Some(true) => "overlap",
            Some(false) => "apart",
            None => "none",
        }
    }

    fn cells(&self, max_regression: f64) -> Vec<String> {
        let mean = |side: Option<Estimate>| side.map_or("failed".into(), |mean| seconds(mean.value));
        let word = match self.change(max_regression) {
            Change::Within => "ok",
            Change::Regressed => "REGRESSED",
            Change::Broken => "BROKEN",
            Change::NoBefore => "no baseline",
        };
        let growth = self.growth().map(percent).unwrap_or_default();
        vec![mean(self.before), mean(self.now), growth, self.overlap_words().into(), word.into()]
    }
}

const HEADER: [&str; 5] = ["before s", "now s", "change", "intervals", "verdict"];

impl Comparison {
    /// Whether any group got slower by more than allowed, or stopped loading.
    pub fn regressed(&self) -> bool {
        self.regressed_pairs().next().is_some()
    }

    fn regressed_pairs(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(|pair| pair.change(self.max_regression).is_bad())
    }

    /// A line for each regression.
    pub fn regressions(&self) -> Vec<String> {
        self.regressed_pairs().map(|pair| self.describe(pair)).collect()
    }

    fn describe(&self, pair: &Pair) -> String {
        let title = pair.key.title();
        let (Some(before), Some(now), Some(growth)) = (pair.before, pair.now, pair.growth()) else {
            return format!("{title}: every load failed; it loaded before");
        };
        let overlap = match pair.intervals_overlap() {
            Some(true) => "the 95 % intervals of the means overlap, so it may be noise",
            Some(false) => "the 95 % intervals of the means do not overlap",
            None => "too few loads for intervals",
        };
        format!(
            "{title}: mean {} s -> {} s ({}, more than {:.1} %); {overlap}",
            seconds(before.value),
            seconds(now.value),
            percent(growth),
            self.max_regression * 100.0,
        )
    }

    /// A line for each group that stands on one side only.
    pub fn missing(&self) -> Vec<String> {
        let only = |keys: &[GroupKey], side: &str| -> Vec<String> {
            keys.iter().map(|key| format!("only in the {side}: {}", key.title())).collect()
        };
        [only(&self.only_before, "baseline"), only(&self.only_now, "new results")].concat()
    }

    pub fn heading(&self) -> String {
        format!("Against the baseline (a mean may grow by {:.1} %):", self.max_regression * 100.0)
    }

    /// Headings, and for each group whether it regressed and its cells.
    pub fn table(&self) -> (Vec<String>, Vec<(bool, Vec<String>)>) {
        let row = |pair: &Pair| {
            let cells = [vec![pair.key.title()], pair.cells(self.max_regression)].concat();
            (pair.change(self.max_regression).is_bad(), cells)
        };
        let header = ["loads"].iter().chain(&HEADER).map(|name| name.to_string()).collect();
        (header, self.pairs.iter().map(row).collect())
    }

    pub fn text(&self) -> String {
        let (header, rows) = self.table();
        let rows = rows.into_iter().map(|(_, cells)| Line::Cells(cells));
        let mut lines = vec![Line::Title(self.heading()), Line::Cells(header)];
        lines.extend(rows);
        lines.extend(self.missing().into_iter().map(Line::Title));
        align(&lines)
    }

    pub fn markdown(&self) -> String {
        let (header, rows) = self.table();
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, cells)| cells).collect();
        let mut text = format!("{}\n\n{}", self.heading(), pipes(&header, &rows, 1));
        let missing = self.missing();
        text.extend(missing.iter().map(|line| format!("\n- {line}")));
        if !missing.is_empty() {
            text.push('\n');
        }
        text
    }

    /// A row for each group that stands on both sides.
    pub fn csv(&self) -> Result<String> {
        let pairs = &self.pairs;
        let text = |get: fn(&GroupKey) -> &str| -> Vec<Option<&str>> {
            pairs.iter().map(|pair| Some(get(&pair.key)).filter(|text| !text.is_empty())).collect()
        };
        let mean = |get: fn(&Pair) -> Option<Estimate>| -> Vec<Option<f64>> {
            pairs.iter().map(|pair| get(pair).map(|mean| mean.value)).collect()
        };
        frame_csv(&mut df![
            "model" => text(|key| &key.model),
            "mode" => text(|key| &key.mode),
            "destination" => text(|key| &key.destination),
            "cache_state" => text(|key| &key.cache_state),
            "host" => text(|key| &key.host),
            "format" => text(|key| &key.format),
            "engine" => text(|key| &key.engine),
            "mean_before_s" => mean(|pair| pair.before),
            "mean_now_s" => mean(|pair| pair.now),
            "growth_fraction" => pairs.iter().map(Pair::growth).collect::<Vec<_>>(),
            "intervals_overlap" => pairs.iter().map(Pair::intervals_overlap).collect::<Vec<_>>(),
            "regressed" => pairs.iter().map(|pair| pair.change(self.max_regression).is_bad()).collect::<Vec<_>>(),
        ]?)
    }

    pub fn json(&self) -> Value {
        let pair = |pair: &Pair| {
            json!({
                "group": pair.key,
                "mean_before_s": pair.before.map(|mean| mean.value),
                "mean_now_s": pair.now.map(|mean| mean.value),
                "growth_fraction": pair.growth(),
                "intervals_overlap": pair.intervals_overlap(),
                "regressed": pair.change(self.max_regression).is_bad(),
            })
        };
        json!({
            "max_regression_fraction": self.max_regression,
            "regressed": self.regressed(),
            "pairs": self.pairs.iter().map(pair).collect::<Vec<_>>(),
            "only_in_baseline": self.only_before,
            "only_in_new_results": self.only_now,
        })
    }
}

/// `+20.0 %`.
fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::read::Load;
    use crate::analyze::stats;

    fn groups(format: &str, times: &[Option<f64>]) -> Vec<Group> {
        let key = GroupKey::new(["m", "cached", "", ""], format, "");
        let load = |time_s: &Option<f64>| Load { time_s: *time_s, ..Load::default() };
        stats::group(&times.iter().map(load).collect::<Vec<_>>(), &[key]).unwrap()
    }

    fn one(before: &[Option<f64>], now: &[Option<f64>]) -> Comparison {
        compare(&groups("sllm", before), &groups("sllm", now), 0.1).unwrap()
    }

    #[test]
    fn growth_past_the_limit_regresses_and_the_limit_itself_does_not() {
        assert!(!one(&[Some(1.0)], &[Some(1.1)]).regressed());
        assert!(!one(&[Some(1.0)], &[Some(0.5)]).regressed());
        let slower = one(&[Some(1.0), Some(1.0)], &[Some(1.2), Some(1.2)]);
        assert!(slower.regressed());
        let line = &slower.regressions()[0];
        assert!(line.contains("1.000 s -> 1.200 s (+20.0 %, more than 10.0 %)"), "{line}");
        assert!(line.contains("do not overlap"), "{line}");
    }

    #[test]
    fn overlap_of_intervals_is_told() {
        let noisy = one(&[Some(1.0), Some(2.0), Some(3.0)], &[Some(1.1), Some(2.3), Some(3.4)]);
        assert!(noisy.regressions()[0].contains("may be noise"));
        assert!(one(&[Some(1.0)], &[Some(2.0)]).regressions()[0].contains("too few loads"));
    }

    #[test]
    fn loads_that_all_fail_now_are_a_regression() {
        let broken = one(&[Some(1.0)], &[None]);
        assert!(broken.regressed() && broken.regressions()[0].contains("every load failed"));
        assert!(!one(&[None], &[Some(1.0)]).regressed());
    }

    #[test]
    fn groups_on_one_side_are_named() {
        let before = [groups("a", &[Some(1.0)]), groups("b", &[Some(1.0)])].concat();
        let now = [groups("b", &[Some(1.0)]), groups("c", &[Some(1.0)])].concat();
        let text = compare(&before, &now, 0.1).unwrap().text();
        assert!(text.contains("only in the baseline: m, cached: a\n"), "{text}");
        assert!(text.contains("only in the new results: m, cached: c\n"), "{text}");
        let error = compare(&before[..1], &now[1..], 0.1).unwrap_err().to_string();
        assert!(error.contains("share no group") && error.contains("m, cached: a"), "{error}");
    }
}

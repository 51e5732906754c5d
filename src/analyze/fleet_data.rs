//! A fleet as CSV and JSON.

use anyhow::Result;
use polars::prelude::*;
use serde_json::{Map, Value, json};

use crate::analyze::fleet::{Finding, Fleet, Node, NodeGroup, What};
use crate::analyze::group_key::GroupKey;
use crate::analyze::robust::{MAD_TO_STD, MIN_SCALE_FRACTION, MIN_VALUES, THRESHOLD};
use crate::analyze::table::{frame_csv, frame_json};

impl Fleet {
    pub fn groups_csv(&self) -> Result<String> {
        frame_csv(&mut self.group_frame()?)
    }

    /// A row for each finding of each node, the worst first; then those that `qualify` could not judge, without a rank.
    pub fn nodes_csv(&self) -> Result<String> {
        frame_csv(&mut self.finding_frame()?)
    }

    pub fn json(&self) -> Result<Value> {
        let node = |node: &Node| {
            json!({
                "node": node.name,
                "score": node.score,
                "findings": node.findings.iter().map(|finding| self.finding_json(finding)).collect::<Vec<_>>(),
                "differences": node.differences.iter().map(|d| json!({
                    "field": d.field, "value": d.value, "usual": d.usual, "nodes_alike": d.nodes_alike,
                })).collect::<Vec<_>>(),
            })
        };
        let shared = |s: &crate::analyze::difference::Shared| {
            json!({
                "field": s.field, "value": s.value, "usual": s.usual, "nodes": s.bad, "of_nodes": s.bad_of,
                "others": s.others, "of_others": s.others_of,
            })
        };
        let mut whole = json!({
            "nodes": self.nodes,
            "method": {
                "threshold_scales": THRESHOLD, "scale": "mad", "mad_factor": MAD_TO_STD,
                "min_scale_fraction_of_median": MIN_SCALE_FRACTION, "min_nodes": MIN_VALUES,
            },
            "groups": frame_json(&self.group_frame()?)?,
            "worst_nodes": self.worst.iter().map(node).collect::<Vec<_>>(),
            "shared_by_worst_nodes": self.shared.iter().map(shared).collect::<Vec<_>>(),
        });
        if let Some(tally) = self.qualified {
            whole["qualify"] = json!({
                "passed_nodes": tally.passed, "failed_nodes": tally.failed, "not_judged_nodes": tally.open,
                "nodes_without_verdict": tally.without,
                "not_judged": self.open.iter().map(node).collect::<Vec<_>>(),
            });
        }
        Ok(whole)
    }

    fn finding_json(&self, finding: &Finding) -> Value {
        let mut object = Map::new();
        object.insert("group".into(), json!(self.key_of(finding)));
        let fields = match &finding.what {
            What::Missing => json!({ "what": "missing" }),
            What::Failing { failed, loads } => {
                json!({ "what": "failing", "failed_loads": failed, "loads": loads })
            }
            What::Slow { median_s, usual_s, score } => {
                json!({ "what": "slow", "median_s": median_s, "usual_s": usual_s, "score": score })
            }
            What::Qualify(qualified) => {
                let mut fields = qualified.json();
                fields["what"] = json!("qualify");
                fields
            }
        };
        object.extend(fields.as_object().cloned().unwrap_or_default());
        Value::Object(object)
    }

    /// The group that a finding is of.
    pub fn key_of(&self, finding: &Finding) -> Option<&GroupKey> {
        self.groups.get(finding.group?).map(NodeGroup::key)
    }

    fn group_frame(&self) -> PolarsResult<DataFrame> {
        let groups = &self.groups;
        let count =
            |get: fn(&NodeGroup) -> usize| -> Vec<u64> { groups.iter().map(|g| get(g) as u64).collect() };
        let number =
            |get: fn(&NodeGroup) -> Option<f64>| -> Vec<Option<f64>> { groups.iter().map(get).collect() };
        let figures = df![
            "nodes" => count(NodeGroup::nodes),
            "loads" => count(|g| g.loads),
            "failed_loads" => count(|g| g.failed_loads),
            "median_s" => number(|g| Some(g.spread?.median)),
            "mad_s" => number(|g| Some(g.spread?.mad)),
            "scale_s" => number(|g| Some(g.spread?.scale)),
            "limit_s" => number(|g| Some(g.spread?.limit())),
            "fastest_s" => number(|g| g.over_nodes.samples_s.first().copied()),
            "slowest_s" => number(|g| g.over_nodes.samples_s.last().copied()),
            "gb_per_s" => number(|g| g.over_nodes.gb_per_s),
            "speedup" => number(|g| Some(g.over_nodes.speedup?.value)),
            "slow_nodes" => count(|g| g.slow),
            "fast_nodes" => count(|g| g.fast),
            "failing_nodes" => count(|g| g.failing),
            "missing_nodes" => count(|g| g.missing),
        ]?;
        key_columns(groups.iter().map(|group| Some(group.key())))?.hstack(figures.columns())
    }

    fn finding_frame<'a>(&'a self) -> PolarsResult<DataFrame> {
        let is_worst = |node: &&Node| self.worst.iter().any(|worst| worst.name == node.name);
        let ranked = self.worst.iter().enumerate().map(|(rank, node)| (Some(rank as u64 + 1), node));
        let others = self.open.iter().filter(|node| !is_worst(node)).map(|node| (None, node));
        let rows_of = |(rank, node): (Option<u64>, &'a Node)| {
            node.findings.iter().map(move |finding| (rank, node, finding))
        };
        let all: Vec<(Option<u64>, &Node, &Finding)> = ranked.chain(others).flat_map(rows_of).collect();
        let slow = |get: fn(f64, f64, f64) -> f64| -> Vec<Option<f64>> {
            let of = |(_, _, finding): &(Option<u64>, &Node, &Finding)| match finding.what {
                What::Slow { median_s, usual_s, score } => Some(get(median_s, usual_s, score)),
                _ => None,
            };
            all.iter().map(of).collect()
        };
        let failing = |get: fn(usize, usize) -> usize| -> Vec<Option<u64>> {
            let of = |(_, _, finding): &(Option<u64>, &Node, &Finding)| match finding.what {
                What::Failing { failed, loads } => Some(get(failed, loads) as u64),
                _ => None,
            };
            all.iter().map(of).collect()
        };
        let found = df![
            "rank" => all.iter().map(|(rank, _, _)| *rank).collect::<Vec<Option<u64>>>(),
            "node" => all.iter().map(|(_, node, _)| node.name.as_str()).collect::<Vec<_>>(),
            "found" => all.iter().map(|(_, _, finding)| finding.what.name()).collect::<Vec<_>>(),
        ]?;
        let figures = df![
            "median_s" => slow(|median_s, _, _| median_s),
            "usual_s" => slow(|_, usual_s, _| usual_s),
            "score" => slow(|_, _, score| score),
            "failed_loads" => failing(|failed, _| failed),
            "loads" => failing(|_, loads| loads),
            "qualify" => all.iter().map(|(_, _, finding)| finding.what.said()).collect::<Vec<_>>(),
            "differs" => all.iter().map(|(_, node, _)| node.differences_in_words().join("; ")).collect::<Vec<_>>(),
        ]?;
        let keys = key_columns(all.iter().map(|(_, _, finding)| self.key_of(finding)))?;
        found.hstack(keys.columns())?.hstack(figures.columns())
    }
}

/// What names a group over all nodes. What a key does not say is null.
fn key_columns<'a>(keys: impl Iterator<Item = Option<&'a GroupKey>>) -> PolarsResult<DataFrame> {
    let keys: Vec<Option<&GroupKey>> = keys.collect();
    let text = |get: fn(&GroupKey) -> &str| -> Vec<Option<&str>> {
        keys.iter().map(|key| key.map(get).filter(|text| !text.is_empty())).collect()
    };
    df![
        "model" => text(|key| &key.model),
        "mode" => text(|key| &key.mode),
        "destination" => text(|key| &key.destination),
        "cache_state" => text(|key| &key.cache_state),
        "format" => text(|key| &key.format),
        "engine" => text(|key| &key.engine),
    ]
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            What::Missing => "missing",
            What::Failing { .. } => "failing",
            What::Slow { .. } => "slow",
            What::Qualify(qualified) if qualified.verdict.is_open() => "not judged",
            What::Qualify(_) => "not qualified",
        }
    }

    /// What `qualify` said, whole.
    fn said(&self) -> Option<String> {
        match self {
            What::Qualify(qualified) => Some(format!("{}: {}", qualified.path, qualified.why)),
            _ => None,
        }
    }
}

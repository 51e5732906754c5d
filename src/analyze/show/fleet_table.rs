//! A fleet as text, markdown, frames and JSON.

use anyhow::Result;
use polars::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::analyze::figures::difference::{Difference, Shared};
use crate::analyze::figures::fleet::{Fleet, NodeGroup, Spread};
use crate::analyze::figures::group::{MAD_TO_STD, MIN_SCALE_FRACTION, MIN_VALUES, THRESHOLD, key_columns};
use crate::analyze::figures::node::{Finding, Node, What};
use crate::analyze::key::GroupKey;
use crate::analyze::show::format::{rate, seconds, speedup_in_words};
use crate::analyze::show::loads::frame_json;
use crate::analyze::show::part::{Grid, Kind, Part, Row, columns};

const HEADER: [&str; 13] = [
    "nodes",
    "loads",
    "failed",
    "median s",
    "MAD s",
    "limit s",
    "fastest s",
    "slowest s",
    "GB/s",
    "speedup",
    "slow",
    "failing",
    "missing",
];
/// What text says of one node.
const MAX_FINDINGS: usize = 3;
const MAX_DIFFERENCES: usize = 5;
/// Nodes that `qualify` could not judge; JSON has all.
const MAX_OPEN: usize = 20;

impl Fleet {
    /// How nodes are judged, in words.
    fn method(&self) -> String {
        format!(
            "A node is slow where its median load time exceeds the median of all nodes by more than {THRESHOLD} robust\n\
             standard deviations, which are {MAD_TO_STD} times the median absolute deviation (MAD), and at least {:.0} % of the\n\
             median; that is the limit. The times of fewer than {MIN_VALUES} nodes under the same conditions are not judged. A node\n\
             with a failed load stands out always.",
            MIN_SCALE_FRACTION * 100.0
        )
    }

    /// Whether any group has nodes enough to be judged, or anything else is known of a node.
    pub fn is_judged(&self) -> bool {
        let by_time = self.groups.iter().any(|group| group.spread.is_some());
        by_time || !self.worst.is_empty() || self.qualified.is_some()
    }

    /// The result in a line.
    pub fn verdict(&self) -> String {
        let count = |is: fn(&What) -> bool| {
            self.worst.iter().filter(|node| node.findings.iter().any(|finding| is(&finding.what))).count()
        };
        let unfit = match self.qualified {
            Some(tally) => format!(", {} failed by qualify", tally.failed),
            None => String::new(),
        };
        format!(
            "{} of {} nodes stand out: {} slow, {} with failed loads, {} without loads that most have{unfit}",
            self.worst.len(),
            self.nodes,
            count(|what| matches!(what, What::Slow { .. })),
            count(|what| matches!(what, What::Failing { .. })),
            count(|what| matches!(what, What::Missing)),
        )
    }

    /// What `qualify` said of all nodes, in a line.
    pub fn qualified_in_words(&self) -> Option<String> {
        let tally = self.qualified?;
        Some(format!(
            "qualify: {} passed, {} failed, {} could not be judged, {} without a verdict",
            tally.passed, tally.failed, tally.open, tally.without
        ))
    }

    /// The groups over all nodes.
    pub fn groups_parts(&self) -> Vec<Part> {
        let row = |group: &NodeGroup| Row {
            section: group.key().section_title(),
            cells: group.cells(),
            class: None,
        };
        let columns = columns("format", HEADER.map(String::from));
        let rows = self.groups.iter().map(row).collect();
        vec![Part::Grid(Grid { columns, sections: Some("loads to"), rows }), Part::Note(self.method())]
    }

    /// The worst nodes, then those that `qualify` could not judge, and what bad nodes share.
    pub fn nodes_parts(&self, worst: usize) -> Vec<Part> {
        let mut parts = vec![Part::Words(format!("{}.", self.verdict()))];
        parts.extend(self.qualified_in_words().map(|line| Part::Words(format!("{line}."))));
        let row = |node: &Node| {
            let (found, differs) = (node.findings_in_words(self), node.differences_in_words());
            let cells = vec![node.name.clone(), found.join("\n"), differs.join("\n")];
            Row { section: String::new(), cells, class: None }
        };
        let columns = [("node", Kind::Text), ("found", Kind::Wide), ("differs", Kind::Wide)];
        parts.push(Part::Grid(Grid {
            columns: columns.map(|(name, kind)| (name.to_string(), kind)).into(),
            sections: None,
            rows: self.worst.iter().take(worst).map(row).collect(),
        }));
        if self.worst.len() > worst {
            let more = self.worst.len() - worst;
            parts.push(Part::Words(format!("… and {more} more, all in the JSON")));
        }
        let line = |node: &Node| format!("{}: {}", node.name, node.findings_in_words(self).join("; "));
        let mut open: Vec<String> = self.open.iter().take(MAX_OPEN).map(line).collect();
        if self.open.len() > MAX_OPEN {
            open.push(format!("… and {} more, all in the JSON", self.open.len() - MAX_OPEN));
        }
        parts.push(Part::List("Not judged by qualify:", open));
        let line = |s: &Shared| {
            format!(
                "{} = {} (usual: {}): {} of {} that stand out, {} of {} others",
                s.field, s.value, s.usual, s.bad, s.bad_of, s.others, s.others_of
            )
        };
        let shared = self.shared.iter().map(line).collect();
        parts.push(Part::List("What these nodes have more often than the others:", shared));
        parts
    }
}

impl NodeGroup {
    pub fn key(&self) -> &GroupKey {
        &self.over_nodes.key
    }

    /// Those with a load of it, failed ones too.
    pub fn nodes(&self) -> usize {
        self.over_nodes.samples_s.len() + self.over_nodes.errors
    }

    fn cells(&self) -> Vec<String> {
        let of_spread = |get: fn(&Spread) -> f64| {
            self.spread.as_ref().map(|spread| seconds(get(spread))).unwrap_or_default()
        };
        let time = |time_s: Option<&f64>| time_s.map(|time_s| seconds(*time_s)).unwrap_or_default();
        vec![
            self.over_nodes.name.clone(),
            self.nodes().to_string(),
            self.loads.to_string(),
            self.failed_loads.to_string(),
            of_spread(|spread| spread.median_s),
            of_spread(|spread| spread.mad_s),
            of_spread(|spread| spread.limit_s),
            time(self.over_nodes.samples_s.first()),
            time(self.over_nodes.samples_s.last()),
            self.over_nodes.gb_per_s.map(rate).unwrap_or_default(),
            self.over_nodes.speedup.as_ref().map(speedup_in_words).unwrap_or_default(),
            self.slow.to_string(),
            self.failing.to_string(),
            self.missing.to_string(),
        ]
    }
}

impl Node {
    /// The worst findings, a line each.
    fn findings_in_words(&self, fleet: &Fleet) -> Vec<String> {
        let missing = self.findings.iter().filter(|finding| finding.what == What::Missing).count();
        if missing > 0 && missing == fleet.groups.len() {
            return vec!["no loads at all".into()];
        }
        let line = |finding: &Finding| {
            let title = fleet.key_of(finding).map(GroupKey::title).unwrap_or_default();
            match &finding.what {
                What::Missing => format!("no loads of {title}"),
                What::Failing { failed, loads } => format!("{failed} of {loads} loads failed: {title}"),
                What::Slow { median_s, usual_s, score } => format!(
                    "{} s, {:.2} times the usual {} s (score {score:.1}): {title}",
                    seconds(*median_s),
                    median_s / usual_s,
                    seconds(*usual_s)
                ),
                What::Qualify(qualified) => qualified.in_words(),
            }
        };
        let mut lines: Vec<String> = self.findings.iter().take(MAX_FINDINGS).map(line).collect();
        if self.findings.len() > MAX_FINDINGS {
            lines.push(format!("and {} more findings", self.findings.len() - MAX_FINDINGS));
        }
        lines
    }

    /// The most telling first.
    fn differences_in_words(&self) -> Vec<String> {
        let line = |d: &Difference| {
            format!("{} = {} (usual: {}; {} nodes have it)", d.field, d.value, d.usual, d.nodes_alike)
        };
        let mut lines: Vec<String> = self.differences.iter().take(MAX_DIFFERENCES).map(line).collect();
        if self.differences.len() > MAX_DIFFERENCES {
            lines.push(format!("and {} more", self.differences.len() - MAX_DIFFERENCES));
        }
        lines
    }
}

#[derive(Serialize)]
struct FindingJson<'a> {
    group: Option<&'a GroupKey>,
    #[serde(flatten)]
    found: &'a What,
    /// Stands behind a verdict's fields, as it always did.
    #[serde(rename = "what", skip_serializing_if = "Option::is_none")]
    of_qualify: Option<&'static str>,
}

/// As frames and JSON.
impl Fleet {
    pub fn json(&self) -> Result<Value> {
        let finding = |finding: &Finding| {
            let of_qualify = matches!(finding.what, What::Qualify(_)).then_some("qualify");
            json!(FindingJson { group: self.key_of(finding), found: &finding.what, of_qualify })
        };
        let node = |node: &Node| {
            json!({
                "node": node.name,
                "score": node.score,
                "findings": node.findings.iter().map(finding).collect::<Vec<_>>(),
                "differences": node.differences,
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
            "shared_by_worst_nodes": self.shared,
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

    /// The group that a finding is of.
    pub fn key_of(&self, finding: &Finding) -> Option<&GroupKey> {
        self.groups.get(finding.group?).map(NodeGroup::key)
    }

    /// A row for each group over all nodes.
    pub fn group_frame(&self) -> PolarsResult<DataFrame> {
        let groups = &self.groups;
        let count =
            |get: fn(&NodeGroup) -> usize| -> Vec<u64> { groups.iter().map(|g| get(g) as u64).collect() };
        let number =
            |get: fn(&NodeGroup) -> Option<f64>| -> Vec<Option<f64>> { groups.iter().map(get).collect() };
        let figures = df![
            "nodes" => count(NodeGroup::nodes),
            "loads" => count(|g| g.loads),
            "failed_loads" => count(|g| g.failed_loads),
            "median_s" => number(|g| Some(g.spread?.median_s)),
            "mad_s" => number(|g| Some(g.spread?.mad_s)),
            "scale_s" => number(|g| Some(g.spread?.scale_s)),
            "limit_s" => number(|g| Some(g.spread?.limit_s)),
            "fastest_s" => number(|g| g.over_nodes.samples_s.first().copied()),
            "slowest_s" => number(|g| g.over_nodes.samples_s.last().copied()),
            "gb_per_s" => number(|g| g.over_nodes.gb_per_s),
            "speedup" => number(|g| Some(g.over_nodes.speedup.as_ref()?.ratio.value)),
            "slow_nodes" => count(|g| g.slow),
            "fast_nodes" => count(|g| g.fast),
            "failing_nodes" => count(|g| g.failing),
            "missing_nodes" => count(|g| g.missing),
        ]?;
        key_columns(groups.iter().map(|group| Some(group.key())))?.drop("host")?.hstack(figures.columns())
    }

    /// A row for each finding of each node, the worst first; then those that `qualify` could not judge, without a rank.
    pub fn finding_frame<'a>(&'a self) -> PolarsResult<DataFrame> {
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
        let keys = key_columns(all.iter().map(|(_, _, finding)| self.key_of(finding)))?.drop("host")?;
        found.hstack(keys.columns())?.hstack(figures.columns())
    }
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

//! A fleet as text, markdown, CSV and JSON.

use anyhow::Result;
use polars::prelude::*;
use serde_json::{Map, Value, json};

use super::fleet::{Finding, Fleet, Node, NodeGroup, What};
use super::key::Key;
use super::robust::{MAD_TO_STD, MIN_SCALE_FRACTION, MIN_VALUES, THRESHOLD};
use super::table::{Line, align, frame_csv, frame_json, label, pipes, rate, seconds, times};

pub const HEADER: [&str; 13] = [
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

impl Fleet {
    /// How nodes are judged, in words.
    pub fn method(&self) -> String {
        format!(
            "A node is slow where its median load time exceeds the median of all nodes by more than {THRESHOLD} robust\n\
             standard deviations, which are {MAD_TO_STD} times the median absolute deviation (MAD), and at least {:.0} % of the\n\
             median; that is the limit. Fewer than {MIN_VALUES} nodes under the same conditions are not judged.\n",
            MIN_SCALE_FRACTION * 100.0
        )
    }

    /// Whether any group has nodes enough to be judged.
    pub fn is_judged(&self) -> bool {
        self.groups.iter().any(|group| group.spread.is_some())
    }

    /// The result in a line.
    pub fn verdict(&self) -> String {
        let count = |is: fn(&What) -> bool| {
            self.worst.iter().filter(|node| node.findings.iter().any(|finding| is(&finding.what))).count()
        };
        format!(
            "{} of {} nodes stand out: {} slow, {} with failed loads, {} without loads that most have",
            self.worst.len(),
            self.nodes,
            count(|what| matches!(what, What::Slow { .. })),
            count(|what| matches!(what, What::Failing { .. })),
            count(|what| matches!(what, What::Missing)),
        )
    }

    /// Groups with their titles and cells.
    pub fn rows(&self) -> Vec<(String, String, Vec<String>)> {
        let mut rows = Vec::new();
        for section in self.groups.chunk_by(|a, b| a.key().section() == b.key().section()) {
            let over_nodes: Vec<_> = section.iter().map(|group| group.over_nodes.clone()).collect();
            for group in section {
                rows.push((
                    group.key().section_title(),
                    label(&group.over_nodes, &over_nodes),
                    group.cells(),
                ));
            }
        }
        rows
    }

    pub fn groups_text(&self) -> String {
        let header = std::iter::once("").chain(HEADER).map(String::from).collect();
        let mut lines = vec![Line::Cells(header)];
        let mut last = String::new();
        for (title, label, cells) in self.rows() {
            if title != last {
                lines.push(Line::Title(title.clone()));
                last = title;
            }
            lines.push(Line::Cells([vec![format!("  {label}")], cells].concat()));
        }
        format!("{}\n{}", align(&lines), self.method())
    }

    pub fn nodes_text(&self, worst: usize) -> String {
        let mut text = format!("{}.\n", self.verdict());
        for node in self.worst.iter().take(worst) {
            text.push_str(&format!("{}\n", node.name));
            for line in node.findings_in_words(self) {
                text.push_str(&format!("  {line}\n"));
            }
            text.extend(node.differences_in_words().iter().map(|line| format!("  differs: {line}\n")));
        }
        if self.worst.len() > worst {
            text.push_str(&format!("… and {} more: --worst COUNT, --json\n", self.worst.len() - worst));
        }
        if !self.shared.is_empty() {
            text.push_str("\nWhat these nodes have more often than the others:\n");
            text.extend(self.shared_in_words().iter().map(|line| format!("  {line}\n")));
        }
        text
    }

    pub fn shared_in_words(&self) -> Vec<String> {
        let line = |s: &super::differ::Shared| {
            format!(
                "{} = {} (usual: {}): {} of {} that stand out, {} of {} others",
                s.field, s.value, s.usual, s.bad, s.bad_of, s.others, s.others_of
            )
        };
        self.shared.iter().map(line).collect()
    }

    pub fn groups_markdown(&self) -> String {
        let header: Vec<String> =
            ["loads to", "format"].into_iter().chain(HEADER).map(String::from).collect();
        let row = |(title, label, cells)| [vec![title, label], cells].concat();
        let rows: Vec<Vec<String>> = self.rows().into_iter().map(row).collect();
        format!("{}\n{}", pipes(&header, &rows, 2), self.method())
    }

    pub fn nodes_markdown(&self, worst: usize) -> String {
        let header = ["node", "found", "differs"].map(String::from);
        let row = |node: &Node| {
            let (found, differs) = (node.findings_in_words(self), node.differences_in_words());
            vec![node.name.clone(), found.join("; "), differs.join("; ")]
        };
        let rows: Vec<Vec<String>> = self.worst.iter().take(worst).map(row).collect();
        let mut text = format!("{}.\n\n{}", self.verdict(), pipes(&header, &rows, 3));
        if !self.shared.is_empty() {
            text.push_str("\nWhat these nodes have more often than the others:\n\n");
            text.extend(self.shared_in_words().iter().map(|line| format!("- {line}\n")));
        }
        text
    }

    pub fn groups_csv(&self) -> Result<String> {
        frame_csv(&mut self.group_frame()?)
    }

    /// A row for each finding of each node, the worst first.
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
        let shared = |s: &super::differ::Shared| {
            json!({
                "field": s.field, "value": s.value, "usual": s.usual, "nodes": s.bad, "of_nodes": s.bad_of,
                "others": s.others, "of_others": s.others_of,
            })
        };
        Ok(json!({
            "nodes": self.nodes,
            "method": {
                "threshold_scales": THRESHOLD, "scale": "mad", "mad_factor": MAD_TO_STD,
                "min_scale_fraction_of_median": MIN_SCALE_FRACTION, "min_nodes": MIN_VALUES,
            },
            "groups": frame_json(&self.group_frame()?)?,
            "worst_nodes": self.worst.iter().map(node).collect::<Vec<_>>(),
            "shared_by_worst_nodes": self.shared.iter().map(shared).collect::<Vec<_>>(),
        }))
    }

    fn finding_json(&self, finding: &Finding) -> Value {
        let mut object = Map::new();
        object.insert("group".into(), json!(self.key_of(finding)));
        let fields = match finding.what {
            What::Missing => json!({ "what": "missing" }),
            What::Failing { failed, loads } => {
                json!({ "what": "failing", "failed_loads": failed, "loads": loads })
            }
            What::Slow { median_s, usual_s, score } => {
                json!({ "what": "slow", "median_s": median_s, "usual_s": usual_s, "score": score })
            }
        };
        object.extend(fields.as_object().cloned().unwrap_or_default());
        Value::Object(object)
    }

    fn key_of(&self, finding: &Finding) -> Option<&Key> {
        self.groups.get(finding.group).map(NodeGroup::key)
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

    fn finding_frame(&self) -> PolarsResult<DataFrame> {
        let all: Vec<(usize, &Node, &Finding)> = self
            .worst
            .iter()
            .enumerate()
            .flat_map(|(rank, node)| node.findings.iter().map(move |finding| (rank, node, finding)))
            .collect();
        let slow = |get: fn(f64, f64, f64) -> f64| -> Vec<Option<f64>> {
            let of = |(_, _, finding): &(usize, &Node, &Finding)| match finding.what {
                What::Slow { median_s, usual_s, score } => Some(get(median_s, usual_s, score)),
                _ => None,
            };
            all.iter().map(of).collect()
        };
        let failing = |get: fn(usize, usize) -> usize| -> Vec<Option<u64>> {
            let of = |(_, _, finding): &(usize, &Node, &Finding)| match finding.what {
                What::Failing { failed, loads } => Some(get(failed, loads) as u64),
                _ => None,
            };
            all.iter().map(of).collect()
        };
        let found = df![
            "rank" => all.iter().map(|(rank, _, _)| *rank as u64 + 1).collect::<Vec<u64>>(),
            "node" => all.iter().map(|(_, node, _)| node.name.as_str()).collect::<Vec<_>>(),
            "found" => all.iter().map(|(_, _, finding)| finding.what.name()).collect::<Vec<_>>(),
        ]?;
        let figures = df![
            "median_s" => slow(|median_s, _, _| median_s),
            "usual_s" => slow(|_, usual_s, _| usual_s),
            "score" => slow(|_, _, score| score),
            "failed_loads" => failing(|failed, _| failed),
            "loads" => failing(|_, loads| loads),
            "differs" => all.iter().map(|(_, node, _)| node.differences_in_words().join("; ")).collect::<Vec<_>>(),
        ]?;
        let keys = key_columns(all.iter().map(|(_, _, finding)| self.key_of(finding)))?;
        found.hstack(keys.columns())?.hstack(figures.columns())
    }
}

/// What names a group over all nodes. What a key does not say is null.
fn key_columns<'a>(keys: impl Iterator<Item = Option<&'a Key>>) -> PolarsResult<DataFrame> {
    let keys: Vec<Option<&Key>> = keys.collect();
    let text = |get: fn(&Key) -> &str| -> Vec<Option<&str>> {
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
        }
    }
}

impl NodeGroup {
    pub fn key(&self) -> &Key {
        &self.over_nodes.key
    }

    /// Those with a load of it, failed ones too.
    pub fn nodes(&self) -> usize {
        self.over_nodes.samples_s.len() + self.over_nodes.errors
    }

    fn cells(&self) -> Vec<String> {
        let of_spread = |get: fn(&super::robust::Spread) -> f64| {
            self.spread.as_ref().map(|spread| seconds(get(spread))).unwrap_or_default()
        };
        let time = |time_s: Option<&f64>| time_s.map(|time_s| seconds(*time_s)).unwrap_or_default();
        vec![
            self.nodes().to_string(),
            self.loads.to_string(),
            self.failed_loads.to_string(),
            of_spread(|spread| spread.median),
            of_spread(|spread| spread.mad),
            of_spread(|spread| spread.limit()),
            time(self.over_nodes.samples_s.first()),
            time(self.over_nodes.samples_s.last()),
            self.over_nodes.gb_per_s.map(rate).unwrap_or_default(),
            self.over_nodes.speedup.map(times).unwrap_or_default(),
            self.slow.to_string(),
            self.failing.to_string(),
            self.missing.to_string(),
        ]
    }
}

impl Node {
    /// The worst findings, a line each.
    pub fn findings_in_words(&self, fleet: &Fleet) -> Vec<String> {
        let missing = self.findings.iter().filter(|finding| finding.what == What::Missing).count();
        if missing == fleet.groups.len() {
            return vec!["no loads at all".into()];
        }
        let line = |finding: &Finding| {
            let title = fleet.key_of(finding).map(Key::title).unwrap_or_default();
            match finding.what {
                What::Missing => format!("no loads of {title}"),
                What::Failing { failed, loads } => format!("{failed} of {loads} loads failed: {title}"),
                What::Slow { median_s, usual_s, score } => format!(
                    "{} s, {:.2} times the usual {} s (score {score:.1}): {title}",
                    seconds(median_s),
                    median_s / usual_s,
                    seconds(usual_s)
                ),
            }
        };
        let mut lines: Vec<String> = self.findings.iter().take(MAX_FINDINGS).map(line).collect();
        if self.findings.len() > MAX_FINDINGS {
            lines.push(format!("and in {} more groups", self.findings.len() - MAX_FINDINGS));
        }
        lines
    }

    /// The most telling first.
    pub fn differences_in_words(&self) -> Vec<String> {
        let line = |d: &super::differ::Difference| {
            format!("{} = {} (usual: {}; {} nodes have it)", d.field, d.value, d.usual, d.nodes_alike)
        };
        let mut lines: Vec<String> = self.differences.iter().take(MAX_DIFFERENCES).map(line).collect();
        if self.differences.len() > MAX_DIFFERENCES {
            lines.push(format!("and {} more", self.differences.len() - MAX_DIFFERENCES));
        }
        lines
    }
}

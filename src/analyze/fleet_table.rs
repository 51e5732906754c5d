//! A fleet as text and markdown; `fleet_data` has it whole.

use crate::analyze::fleet::{Finding, Fleet, Node, NodeGroup, What};
use crate::analyze::group_key::GroupKey;
use crate::analyze::robust::{MAD_TO_STD, MIN_SCALE_FRACTION, MIN_VALUES, THRESHOLD};
use crate::analyze::table::{Line, align, label, pipes, rate, seconds, times};

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
/// Nodes that `qualify` could not judge; JSON has all.
const MAX_OPEN: usize = 20;

impl Fleet {
    /// How nodes are judged, in words.
    pub fn method(&self) -> String {
        format!(
            "A node is slow where its median load time exceeds the median of all nodes by more than {THRESHOLD} robust\n\
             standard deviations, which are {MAD_TO_STD} times the median absolute deviation (MAD), and at least {:.0} % of the\n\
             median; that is the limit. The times of fewer than {MIN_VALUES} nodes under the same conditions are not judged. A node\n\
             with a failed load stands out always.\n",
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

    /// Which nodes `qualify` could not judge, and why, a line each.
    pub fn open_in_words(&self) -> Vec<String> {
        let line = |node: &Node| format!("{}: {}", node.name, node.findings_in_words(self).join("; "));
        let mut lines: Vec<String> = self.open.iter().take(MAX_OPEN).map(line).collect();
        if self.open.len() > MAX_OPEN {
            lines.push(format!("… and {} more, all in the JSON", self.open.len() - MAX_OPEN));
        }
        lines
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
        text.extend(self.qualified_in_words().map(|line| format!("{line}.\n")));
        for node in self.worst.iter().take(worst) {
            text.push_str(&format!("{}\n", node.name));
            for line in node.findings_in_words(self) {
                text.push_str(&format!("  {line}\n"));
            }
            text.extend(node.differences_in_words().iter().map(|line| format!("  differs: {line}\n")));
        }
        if self.worst.len() > worst {
            text.push_str(&format!("… and {} more, all in the JSON\n", self.worst.len() - worst));
        }
        if !self.open.is_empty() {
            text.push_str("\nNot judged by qualify:\n");
            text.extend(self.open_in_words().iter().map(|line| format!("  {line}\n")));
        }
        if !self.shared.is_empty() {
            text.push_str("\nWhat these nodes have more often than the others:\n");
            text.extend(self.shared_in_words().iter().map(|line| format!("  {line}\n")));
        }
        text
    }

    pub fn shared_in_words(&self) -> Vec<String> {
        let line = |s: &crate::analyze::difference::Shared| {
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
        let qualified = self.qualified_in_words().map(|line| format!("{line}.\n\n")).unwrap_or_default();
        let mut text = format!("{}.\n\n{qualified}{}", self.verdict(), pipes(&header, &rows, 3));
        if !self.open.is_empty() {
            text.push_str("\nNot judged by qualify:\n\n");
            text.extend(self.open_in_words().iter().map(|line| format!("- {line}\n")));
        }
        if !self.shared.is_empty() {
            text.push_str("\nWhat these nodes have more often than the others:\n\n");
            text.extend(self.shared_in_words().iter().map(|line| format!("- {line}\n")));
        }
        text
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
        let of_spread = |get: fn(&crate::analyze::robust::Spread) -> f64| {
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
    pub fn differences_in_words(&self) -> Vec<String> {
        let line = |d: &crate::analyze::difference::Difference| {
            format!("{} = {} (usual: {}; {} nodes have it)", d.field, d.value, d.usual, d.nodes_alike)
        };
        let mut lines: Vec<String> = self.differences.iter().take(MAX_DIFFERENCES).map(line).collect();
        if self.differences.len() > MAX_DIFFERENCES {
            lines.push(format!("and {} more", self.differences.len() - MAX_DIFFERENCES));
        }
        lines
    }
}

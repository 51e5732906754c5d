//! Many machines: which of them are slow, fail or are missing, against all others under the same conditions.
//!
//! A node counts once for each group, by the median of its load times. It is slow where that lies more than
//! `robust::THRESHOLD` robust standard deviations above the median of all nodes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::Result;

use crate::analyze::difference;
use crate::analyze::difference::{Difference, Shared};
use crate::analyze::group_key::GroupKey;
use crate::analyze::host::{Host, Hosts};
use crate::analyze::qualified::{Qualified, Verdict};
use crate::analyze::read::Load;
use crate::analyze::robust::{Spread, THRESHOLD};
use crate::analyze::stats;
use crate::analyze::stats::Group;

/// How many nodes a table shows side by side, or one below the other.
pub const MAX_NODES_SHOWN: usize = 8;

/// What a fleet comes to.
#[derive(Debug)]
pub struct Fleet {
    pub nodes: usize,
    /// In the keys' order, which name no host.
    pub groups: Vec<NodeGroup>,
    /// Those that stand out, the worst first.
    pub worst: Vec<Node>,
    /// Those that `qualify` could not judge, with that alone. They may stand among the worst too.
    pub open: Vec<Node>,
    /// Absent where `qualify` left no verdict of any node.
    pub qualified: Option<Tally>,
    /// What bad nodes have in common and others do not.
    pub shared: Vec<Shared>,
}

/// How many nodes `qualify` passed, failed, could not judge, and said nothing of. One path that failed fails its node.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub open: usize,
    pub without: usize,
}

/// One group over all nodes.
#[derive(Debug)]
pub struct NodeGroup {
    /// As of loads, where each node is one: its median load time.
    pub over_nodes: Group,
    /// Of the nodes' medians, in seconds; absent with fewer than three nodes.
    pub spread: Option<Spread>,
    pub loads: usize,
    pub failed_loads: usize,
    /// Nodes far above the median, and far below it.
    pub slow: usize,
    pub fast: usize,
    /// Nodes with failed loads.
    pub failing: usize,
    /// Nodes without a load, where most have some.
    pub missing: usize,
}

/// A node that something was found about.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    /// The highest score of its slow groups, in robust standard deviations; 0 where none is slow.
    pub score: f64,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// The most telling first.
    pub differences: Vec<Difference>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// An index into `Fleet::groups`; absent for what is of the node as a whole.
    pub group: Option<usize>,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Missing,
    Failing {
        failed: usize,
        loads: usize,
    },
    Slow {
        median_s: f64,
        usual_s: f64,
        score: f64,
    },
    /// `qualify` failed it, or could not judge it.
    Qualify(Qualified),
}

impl Finding {
    /// The greater the worse: failed by `qualify`, then no loads, failed loads, slow ones; last what is not judged.
    fn rank(&self) -> (u8, f64) {
        match &self.what {
            What::Qualify(qualified) if qualified.verdict.is_open() => (0, 0.0),
            What::Slow { score, .. } => (1, *score),
            What::Failing { failed, loads } => (2, *failed as f64 / *loads as f64),
            What::Missing => (3, 0.0),
            What::Qualify(_) => (4, 0.0),
        }
    }

    fn is_open(&self) -> bool {
        matches!(&self.what, What::Qualify(qualified) if qualified.verdict.is_open())
    }
}

impl Fleet {
    /// Whether tables with a section or a column for each node are too long to read.
    pub fn is_large(&self) -> bool {
        self.nodes > MAX_NODES_SHOWN
    }

    /// The groups over all nodes, as of loads.
    pub fn over_nodes(&self) -> Vec<Group> {
        self.groups.iter().map(|group| group.over_nodes.clone()).collect()
    }
}

/// Compares nodes. `groups` name their hosts.
pub fn compare(groups: &[Group], hosts: &Hosts) -> Result<Fleet> {
    let mut by_key: BTreeMap<GroupKey, Vec<&Group>> = BTreeMap::new();
    for group in groups {
        by_key.entry(group.key.with_host("")).or_default().push(group);
    }
    let over_nodes = over_nodes(&by_key)?;
    let nodes: Vec<&Host> = hosts.hosts.iter().filter(|host| host.is_node).collect();
    let names: Vec<&str> = nodes.iter().map(|host| host.name.as_str()).collect();
    // A node that never loaded counts by its verdict, where it has one.
    let loaded: HashSet<&str> = groups.iter().map(|group| group.key.host.as_str()).collect();
    let has_say = |host: &&&Host| loaded.contains(host.name.as_str()) || host.verdicts.is_empty();
    let expected: Vec<&str> = nodes.iter().filter(has_say).map(|host| host.name.as_str()).collect();
    let mut findings: BTreeMap<&str, Vec<Finding>> = of_verdicts(&nodes);
    let mut node_groups = Vec::new();
    for (index, (groups, over_nodes)) in by_key.values().zip(over_nodes).enumerate() {
        let (group, found) = judge(groups, over_nodes, &expected);
        node_groups.push(group);
        for (name, what) in found {
            findings.entry(name).or_default().push(Finding { group: Some(index), what });
        }
    }
    let stands_out = |findings: &Vec<Finding>| !findings.iter().all(Finding::is_open);
    let bad: Vec<bool> = names.iter().map(|name| findings.get(name).is_some_and(stands_out)).collect();
    let (mut differences, shared) = difference::compare(hosts, &nodes, &bad);
    let (mut worst, mut open) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        let Some(findings) = findings.remove(name) else { continue };
        let not_judged: Vec<Finding> = findings.iter().filter(|finding| finding.is_open()).cloned().collect();
        if !not_judged.is_empty() {
            open.push(Node::new(name, not_judged, Vec::new()));
        }
        if bad.get(index) != Some(&true) {
            continue;
        }
        let differences = differences.remove(&index).unwrap_or_default();
        worst.push(Node::new(name, findings, differences));
    }
    worst.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
    let qualified = tally(&nodes);
    Ok(Fleet { nodes: names.len(), groups: node_groups, worst, open, qualified, shared })
}

/// What `qualify` failed or could not judge.
fn of_verdicts<'a>(nodes: &[&'a Host]) -> BTreeMap<&'a str, Vec<Finding>> {
    let mut findings: BTreeMap<&str, Vec<Finding>> = BTreeMap::new();
    for host in nodes {
        for qualified in host.verdicts.iter().filter(|of_path| of_path.verdict != Verdict::Passed) {
            let finding = Finding { group: None, what: What::Qualify(qualified.clone()) };
            findings.entry(host.name.as_str()).or_default().push(finding);
        }
    }
    findings
}

fn tally(nodes: &[&Host]) -> Option<Tally> {
    let mut tally = Tally::default();
    for host in nodes {
        let any = |is: fn(Verdict) -> bool| host.verdicts.iter().any(|of_path| is(of_path.verdict));
        let count = match () {
            () if any(|verdict| verdict == Verdict::Failed) => &mut tally.failed,
            () if any(Verdict::is_open) => &mut tally.open,
            () if !host.verdicts.is_empty() => &mut tally.passed,
            () => &mut tally.without,
        };
        *count += 1;
    }
    (tally.without < nodes.len()).then_some(tally)
}

impl Node {
    fn new(name: &str, mut findings: Vec<Finding>, differences: Vec<Difference>) -> Node {
        findings.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
        let scores = findings.iter().map(|finding| match finding.what {
            What::Slow { score, .. } => score,
            _ => 0.0,
        });
        let score = scores.fold(0.0, f64::max);
        Node { name: name.to_string(), score, findings, differences }
    }

    fn rank(&self) -> (u8, f64, f64) {
        let (kind, degree) = self.findings.first().map_or((0, 0.0), Finding::rank);
        (kind, degree, self.score)
    }
}

/// Figures over nodes, each of which is one load: of its median time, with its rate.
fn over_nodes(by_key: &BTreeMap<GroupKey, Vec<&Group>>) -> Result<Vec<Group>> {
    let mut loads = Vec::new();
    for (index, nodes) in by_key.values().enumerate() {
        for node in nodes {
            let time_s = node.figures.as_ref().map(|figures| figures.p50_s);
            let bytes = time_s.zip(node.gb_per_s).map(|(time_s, gb_per_s)| time_s * gb_per_s * 1e9);
            loads.push(Load {
                group: index as u32,
                time_s,
                bytes,
                warm_by_mistake: node.warm_by_mistake > 0,
                verified: node.verified > 0 && node.verified == node.samples_s.len(),
                ..Load::default()
            });
        }
    }
    stats::group(&loads, &by_key.keys().cloned().collect::<Vec<_>>())
}

fn judge<'a>(nodes: &[&'a Group], over_nodes: Group, names: &[&'a str]) -> (NodeGroup, Vec<(&'a str, What)>) {
    let spread = Spread::of(&over_nodes.samples_s);
    let mut group = NodeGroup {
        spread,
        loads: nodes.iter().map(|node| node.samples_s.len() + node.errors).sum(),
        failed_loads: nodes.iter().map(|node| node.errors).sum(),
        over_nodes,
        slow: 0,
        fast: 0,
        failing: 0,
        missing: 0,
    };
    let mut found = Vec::new();
    for node in nodes {
        let name = node.key.host.as_str();
        // However many nodes there are, and however many of them fail.
        if node.errors > 0 {
            group.failing += 1;
            let loads = node.errors + node.samples_s.len();
            found.push((name, What::Failing { failed: node.errors, loads }));
        }
        let Some((spread, figures)) = spread.zip(node.figures.as_ref()) else { continue };
        let score = spread.score(figures.p50_s);
        if score > THRESHOLD {
            group.slow += 1;
            found.push((name, What::Slow { median_s: figures.p50_s, usual_s: spread.median, score }));
        } else if score < -THRESHOLD {
            group.fast += 1;
        }
    }
    if nodes.len() * 2 > names.len() {
        let here: BTreeSet<&str> = nodes.iter().map(|node| node.key.host.as_str()).collect();
        let missing = names.iter().filter(|name| !here.contains(*name));
        found.extend(missing.map(|name| (*name, What::Missing)));
        group.missing = names.len() - here.len();
    }
    (group, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One group a node, of one load or none.
    fn fleet(nodes: &[(&str, Option<f64>)], without_loads: &[&str]) -> Fleet {
        let mut keys: Vec<GroupKey> = nodes
            .iter()
            .map(|(host, _)| GroupKey::new(["m", "cached", "", ""], "sllm", "").with_host(host))
            .collect();
        keys.sort();
        let load = |(host, time_s): &(&str, Option<f64>)| Load {
            group: keys.iter().position(|key| key.host == *host).unwrap() as u32,
            time_s: *time_s,
            bytes: Some(1e9),
            ..Load::default()
        };
        let groups = stats::group(&nodes.iter().map(load).collect::<Vec<_>>(), &keys).unwrap();
        let all = nodes.iter().map(|(name, _)| *name).chain(without_loads.iter().copied());
        let hosts = all.map(|name| Host { name: name.into(), is_node: true, ..Host::default() }).collect();
        compare(&groups, &Hosts::of(hosts)).unwrap()
    }

    #[test]
    fn slow_failing_and_missing_nodes_are_found_and_ranked() {
        let nodes = [
            ("a", Some(1.0)),
            ("b", Some(1.01)),
            ("c", Some(0.99)),
            ("d", Some(1.0)),
            ("slow", Some(1.2)),
            ("slower", Some(3.0)),
            ("fast", Some(0.5)),
            ("failing", None),
        ];
        let fleet = fleet(&nodes, &["missing"]);
        let worst: Vec<&str> = fleet.worst.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(worst, ["missing", "failing", "slower", "slow"]);
        let group = &fleet.groups[0];
        assert_eq!((group.slow, group.fast, group.failing, group.missing), (2, 1, 1, 1));
        assert_eq!((fleet.nodes, group.loads, group.failed_loads), (9, 8, 1));
        let What::Slow { usual_s, score, .. } = fleet.worst[2].findings[0].what else { panic!() };
        // Deviations 0, 0, 0.01, 0.01, 0.2, 0.5, 2: a MAD of 0.01.
        assert!((usual_s - 1.0).abs() < 1e-12 && (score - 2.0 / 0.014826).abs() < 1e-6, "{usual_s} {score}");
        assert_eq!(group.over_nodes.samples_s.len(), 7);
    }

    #[test]
    fn failed_loads_are_a_finding_among_any_number_of_nodes() {
        let bad = |nodes: &[(&str, Option<f64>)]| -> Vec<String> {
            fleet(nodes, &[]).worst.into_iter().map(|node| node.name).collect()
        };
        assert_eq!(bad(&[("a", None)]), ["a"]);
        assert_eq!(bad(&[("a", None), ("b", Some(1.0))]), ["a"]);
        assert_eq!(bad(&[("a", None), ("b", None), ("c", Some(1.0))]), ["a", "b"]);
    }

    #[test]
    fn verdicts_count_beside_loads_and_without_any() {
        let host = |name: &str, verdicts: &[(&str, Verdict)]| {
            let of = |(path, verdict): &(&str, Verdict)| Qualified {
                verdict: *verdict,
                why: "why".into(),
                path: path.to_string(),
                started_at_s: 0.0,
            };
            let verdicts = verdicts.iter().map(of).collect();
            Host { name: name.into(), is_node: true, verdicts, ..Host::default() }
        };
        let key = |host: &str| GroupKey::new(["m", "cached", "", ""], "sllm", "").with_host(host);
        let keys = ["good", "good-2", "two-paths"].map(key);
        let load = |group| Load { group, time_s: Some(1.0), ..Load::default() };
        let groups = stats::group(&[load(0), load(1), load(2)], &keys).unwrap();
        let hosts = Hosts::of(vec![
            host("good", &[("/a", Verdict::Passed)]),
            host("good-2", &[]),
            host(
                "two-paths",
                &[("/a", Verdict::Passed), ("/b", Verdict::Failed), ("/c", Verdict::NotJudged)],
            ),
            host("no-loads", &[("/a", Verdict::Interrupted)]),
        ]);
        let fleet = compare(&groups, &hosts).unwrap();
        let names = |nodes: &[Node]| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&fleet.worst), ["two-paths"]);
        assert_eq!(names(&fleet.open), ["two-paths", "no-loads"]);
        assert_eq!(fleet.qualified, Some(Tally { passed: 1, failed: 1, open: 1, without: 1 }));
        assert_eq!(fleet.groups[0].missing, 0);
    }

    #[test]
    fn two_nodes_cannot_tell_which_is_odd() {
        assert!(fleet(&[("a", Some(1.0)), ("b", Some(9.0))], &[]).worst.is_empty());
    }
}

//! Many machines: which of them are slow, fail or are missing, against all others under the same conditions.
//!
//! A node counts once for each group, by the median of its load times. It is slow where that lies more than
//! `robust::THRESHOLD` robust standard deviations above the median of all nodes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::differ::{self, Difference, Shared};
use super::host::{Host, Hosts};
use super::key::Key;
use super::read::Load;
use super::robust::{Spread, THRESHOLD, median};
use super::stats::{self, Group};

/// How many nodes a table shows side by side, or one below the other.
pub const MAX_NODES_SHOWN: usize = 8;

/// What a fleet comes to.
#[derive(Debug)]
pub struct Fleet {
    pub nodes: usize,
    /// In the keys' order, which name no host.
    pub groups: Vec<NodeGroup>,
    /// Those with a finding, the worst first.
    pub worst: Vec<Node>,
    /// What bad nodes have in common and others do not.
    pub shared: Vec<Shared>,
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
    /// Nodes with more failed loads than is usual.
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
    /// An index into `Fleet::groups`.
    pub group: usize,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    Missing,
    Failing { failed: usize, loads: usize },
    Slow { median_s: f64, usual_s: f64, score: f64 },
}

impl Finding {
    /// The greater the worse: no loads, then failed loads, then slow ones.
    fn rank(&self) -> (u8, f64) {
        match self.what {
            What::Missing => (2, 0.0),
            What::Failing { failed, loads } => (1, failed as f64 / loads as f64),
            What::Slow { score, .. } => (0, score),
        }
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
    let mut by_key: BTreeMap<Key, Vec<&Group>> = BTreeMap::new();
    for group in groups {
        by_key.entry(group.key.with_host("")).or_default().push(group);
    }
    let over_nodes = over_nodes(&by_key)?;
    let nodes: Vec<&Host> = hosts.hosts.iter().filter(|host| host.is_node).collect();
    let names: Vec<&str> = nodes.iter().map(|host| host.name.as_str()).collect();
    let mut findings: BTreeMap<&str, Vec<Finding>> = BTreeMap::new();
    let mut node_groups = Vec::new();
    for (index, (groups, over_nodes)) in by_key.values().zip(over_nodes).enumerate() {
        let (group, found) = judge(groups, over_nodes, &names);
        node_groups.push(group);
        for (name, what) in found {
            findings.entry(name).or_default().push(Finding { group: index, what });
        }
    }
    let bad: Vec<bool> = names.iter().map(|name| findings.contains_key(name)).collect();
    let (mut differences, shared) = differ::compare(hosts, &nodes, &bad);
    let mut worst = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let Some(findings) = findings.remove(name) else { continue };
        let differences = differences.remove(&index).unwrap_or_default();
        worst.push(Node::new(name, findings, differences));
    }
    worst.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
    Ok(Fleet { nodes: names.len(), groups: node_groups, worst, shared })
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
fn over_nodes(by_key: &BTreeMap<Key, Vec<&Group>>) -> Result<Vec<Group>> {
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
    let failed_share = |node: &Group| node.errors as f64 / (node.errors + node.samples_s.len()) as f64;
    // Where most nodes fail, failing is no node's fault.
    let usual_share = median(&nodes.iter().map(|node| failed_share(node)).collect::<Vec<_>>()).unwrap_or(0.0);
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
        if failed_share(node) > usual_share {
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
        let mut keys: Vec<Key> = nodes
            .iter()
            .map(|(host, _)| Key::new(["m", "cached", "", ""], "sllm", "").with_host(host))
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
    fn where_most_nodes_fail_no_node_is_to_blame() {
        let fleet = fleet(&[("a", None), ("b", None), ("c", Some(1.0))], &[]);
        assert!(fleet.worst.is_empty(), "{:?}", fleet.worst);
    }

    #[test]
    fn two_nodes_cannot_tell_which_is_odd() {
        assert!(fleet(&[("a", Some(1.0)), ("b", Some(9.0))], &[]).worst.is_empty());
    }
}

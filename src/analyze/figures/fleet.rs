//! Many machines: which of them are slow, fail or are missing, against all others under the same conditions.
//!
//! A node counts once for each group, by the median of its load times. It is slow where that lies more than
//! `THRESHOLD` robust standard deviations above the median of all nodes.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use polars::prelude::*;

use crate::analyze::figures::difference;
use crate::analyze::figures::difference::Shared;
use crate::analyze::figures::group::{Group, MIN_VALUES, THRESHOLD, key_columns};
use crate::analyze::figures::groups;
use crate::analyze::figures::node::{Finding, Node, What};
use crate::analyze::key::{GroupKey, KEY};
use crate::analyze::read::hosts::{Host, Hosts};
use crate::analyze::read::qualified::Verdict;

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
    /// As of loads, where each node is one: its median load time. A node's ratio of medians is a turn.
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

/// Where the nodes' medians lie, and how far from there is usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median_s: f64,
    pub mad_s: f64,
    /// `MAD_TO_STD` times the MAD, or the least scale.
    pub scale_s: f64,
    /// Nodes above this are slow.
    pub limit_s: f64,
}

impl Fleet {
    /// Whether tables with a section or a column for each node are too long to read.
    pub fn is_large(&self) -> bool {
        self.nodes > MAX_NODES_SHOWN
    }

    /// Whether a node is slow, or lacks loads that most have.
    pub fn has_outliers(&self) -> bool {
        let is_outlier = |finding: &Finding| matches!(finding.what, What::Slow { .. } | What::Missing);
        self.worst.iter().any(|node| node.findings.iter().any(is_outlier))
    }

    /// The groups over all nodes, as of loads.
    pub fn over_nodes(&self) -> Vec<Group> {
        self.groups.iter().map(|group| group.over_nodes.clone()).collect()
    }
}

/// Compares nodes. `groups` name their hosts.
pub fn compare(groups: &[Group], hosts: &Hosts) -> Result<Fleet> {
    let nodes: Vec<&Host> = hosts.hosts.iter().filter(|host| host.is_node).collect();
    let names: Vec<&str> = nodes.iter().map(|host| host.name.as_str()).collect();
    // A node that never loaded counts by its verdict, where it has one.
    let loaded: HashSet<&str> = groups.iter().map(|group| group.key.host.as_str()).collect();
    let has_say = |host: &&&Host| loaded.contains(host.name.as_str()) || host.verdicts.is_empty();
    let expected: Vec<&str> = nodes.iter().filter(has_say).map(|host| host.name.as_str()).collect();
    let mut findings: BTreeMap<String, Vec<Finding>> = of_verdicts(&nodes);
    let mut fleet_groups = Vec::new();
    let mut by_key: HashMap<GroupKey, Vec<&Group>> = HashMap::new();
    for group in groups {
        let key = GroupKey { host: String::new(), ..group.key.clone() };
        by_key.entry(key).or_default().push(group);
    }
    for (index, over_nodes) in groups::group(&as_loads(groups)?)?.into_iter().enumerate() {
        let nodes = by_key.get(&over_nodes.key).map(Vec::as_slice).unwrap_or_default();
        let (group, found) = node_group(over_nodes, nodes, &expected);
        fleet_groups.push(group);
        for (name, what) in found {
            findings.entry(name.to_string()).or_default().push(Finding { group: Some(index), what });
        }
    }
    let stands_out = |findings: &Vec<Finding>| !findings.iter().all(Finding::is_open);
    let bad: Vec<bool> = names.iter().map(|name| findings.get(*name).is_some_and(stands_out)).collect();
    let (mut differences, shared) = difference::compare(&nodes, &bad);
    let (mut worst, mut open) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        let Some(findings) = findings.remove(*name) else { continue };
        let not_judged: Vec<Finding> = findings.iter().filter(|finding| finding.is_open()).cloned().collect();
        if !not_judged.is_empty() {
            open.push(Node::new(name, not_judged, Vec::new()));
        }
        if bad.get(index) == Some(&true) {
            worst.push(Node::new(name, findings, differences.remove(&index).unwrap_or_default()));
        }
    }
    worst.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
    let qualified = tally(&nodes);
    Ok(Fleet { nodes: names.len(), groups: fleet_groups, worst, open, qualified, shared })
}

/// What `qualify` failed or could not judge.
fn of_verdicts(nodes: &[&Host]) -> BTreeMap<String, Vec<Finding>> {
    let mut findings: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    for host in nodes {
        for qualified in host.verdicts.iter().filter(|of_path| of_path.verdict != Verdict::Passed) {
            let finding = Finding { group: None, what: What::Qualify(qualified.clone()) };
            findings.entry(host.name.clone()).or_default().push(finding);
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

/// A frame of loads, each of which is a node: of its median time, with its rate. A node and one of its baselines are a run
/// of one turn, for each format that it compared with that one; a comparison that no node made is none over all of them.
fn as_loads(groups: &[Group]) -> Result<DataFrame> {
    let run = |group: &Group| {
        let against = match &group.speedup {
            Some(speedup) => &speedup.baseline,
            None if group.key.is_baseline() => &group.key.engine,
            None => return (group.key.host.clone(), None),
        };
        (format!("{} {against}", group.key.host), Some(0u64))
    };
    let (runs, turns): (Vec<String>, Vec<Option<u64>>) = groups.iter().map(run).unzip();
    let bytes = |group: &Group| Some(group.median_s()? * group.gb_per_s? * 1e9);
    let verified = |group: &Group| group.verified > 0 && group.verified == group.samples_s.len();
    let keys = key_columns(groups.iter().map(|group| Some(&group.key)))?;
    let keys = keys.lazy().select(KEY.map(|name| col(name).fill_null(lit("")))).collect()?.drop("host")?;
    let rest = df![
        "host" => vec![""; groups.len()],
        "run" => runs,
        "iteration" => turns,
        "time_s" => groups.iter().map(Group::median_s).collect::<Vec<_>>(),
        "bytes" => groups.iter().map(bytes).collect::<Vec<_>>(),
        "tokens_per_s" => groups.iter().map(|group| group.tokens_per_s).collect::<Vec<_>>(),
        "warm_by_mistake" => groups.iter().map(|group| group.warm_by_mistake > 0).collect::<Vec<_>>(),
        "verified" => groups.iter().map(verified).collect::<Vec<_>>(),
    ]?;
    Ok(keys.hstack(rest.columns())?)
}

/// The nodes of a group, each by its own group, and what is found about them.
fn node_group<'a>(
    over_nodes: Group,
    nodes: &[&'a Group],
    expected: &[&'a str],
) -> (NodeGroup, Vec<(&'a str, What)>) {
    let spread = spread(&over_nodes);
    let mut group = NodeGroup {
        over_nodes,
        spread,
        loads: nodes.iter().map(|node| node.loads()).sum(),
        failed_loads: nodes.iter().map(|node| node.errors).sum(),
        slow: 0,
        fast: 0,
        failing: nodes.iter().filter(|node| node.errors > 0).count(),
        missing: 0,
    };
    let mut found = Vec::new();
    for node in nodes {
        let name = node.key.host.as_str();
        // However many nodes there are, and however many of them fail.
        if node.errors > 0 {
            found.push((name, What::Failing { failed: node.errors, loads: node.loads() }));
        }
        let Some((median_s, spread)) = node.median_s().zip(spread) else { continue };
        let score = (median_s - spread.median_s) / spread.scale_s;
        group.fast += usize::from(score < -THRESHOLD);
        if score > THRESHOLD {
            group.slow += 1;
            found.push((name, What::Slow { median_s, usual_s: spread.median_s, score }));
        }
    }
    if nodes.len() * 2 > expected.len() {
        let here: HashSet<&str> = nodes.iter().map(|node| node.key.host.as_str()).collect();
        let missing: Vec<&str> = expected.iter().copied().filter(|name| !here.contains(name)).collect();
        group.missing = missing.len();
        found.extend(missing.into_iter().map(|name| (name, What::Missing)));
    }
    (group, found)
}

/// Of few nodes there is none.
fn spread(over_nodes: &Group) -> Option<Spread> {
    let figures = over_nodes.figures.as_ref().filter(|_| over_nodes.samples_s.len() >= MIN_VALUES)?;
    let (median_s, mad_s) = (figures.median.value, figures.mad_s);
    Some(Spread { median_s, mad_s, scale_s: figures.scale_s(), limit_s: figures.limit_s() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::frame::test_loads::{Load, frame};
    use crate::analyze::read::qualified::Qualified;

    /// The group of a node.
    fn key(host: &'static str) -> [&'static str; 7] {
        ["m", "cached", "", "", host, "sllm", ""]
    }

    /// One group a node, of one load or none.
    fn fleet(nodes: &[(&'static str, Option<f64>)], without_loads: &[&str]) -> Fleet {
        let load = |(host, time_s): &(&'static str, Option<f64>)| Load {
            key: key(host),
            run: "r",
            iteration: Some(0),
            time_s: *time_s,
        };
        let groups = groups::group(&frame(&nodes.iter().map(load).collect::<Vec<_>>())).unwrap();
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
        let bad = |nodes: &[(&'static str, Option<f64>)]| -> Vec<String> {
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
        let load = |host| Load { key: key(host), run: "r", iteration: Some(0), time_s: Some(1.0) };
        let groups = groups::group(&frame(&["good", "good-2", "two-paths"].map(load))).unwrap();
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

    /// Each node's ratio is a turn.
    #[test]
    fn the_speedup_over_nodes_is_the_median_of_theirs() {
        let mut loads = Vec::new();
        for (host, time_s) in [("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 1.0), ("e", 1.0)] {
            let of = |format, engine, time_s| {
                let key = ["m", "cached", "", "", host, format, engine];
                Load { key, run: "r", iteration: Some(0), time_s: Some(time_s) }
            };
            loads.extend([of("sllm", "auto", time_s), of("safetensors", "baseline-rust", 3.0)]);
        }
        // A run of its own: no node made this comparison.
        let alone = |format, run| Load {
            key: ["m", "cached", "", "", "f", format, ""],
            run,
            iteration: Some(0),
            time_s: Some(1.0),
        };
        loads.extend([alone("sllm", "x"), alone("safetensors", "y")]);
        let hosts = ["a", "b", "c", "d", "e", "f"].map(|name| Host {
            name: name.into(),
            is_node: true,
            ..Host::default()
        });
        let fleet = compare(&groups::group(&frame(&loads)).unwrap(), &Hosts::of(hosts.into())).unwrap();
        let auto = fleet.groups.iter().find(|group| group.over_nodes.key.engine == "auto").unwrap();
        let speedup = auto.over_nodes.speedup.clone().unwrap();
        assert_eq!((speedup.ratio.value, speedup.turns, speedup.is_paired), (3.0, 5, true));
        assert!(
            fleet
                .groups
                .iter()
                .filter(|group| group.over_nodes.key.engine.is_empty())
                .all(|group| group.over_nodes.speedup.is_none())
        );
    }
}

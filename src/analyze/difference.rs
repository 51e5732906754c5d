//! What sets a machine apart: its description against that of most others.
//!
//! A field has a usual value where more than half of the nodes share it, numbers to within 1 % (memory sizes
//! differ by a few pages). Fields that differ everywhere, as serial numbers do, have none and say nothing;
//! fields that end in `_s` are measurements, and notes are of a run, not of its machine.

use std::collections::{BTreeMap, HashMap};

use crate::analyze::host::{Host, Hosts};
use crate::analyze::robust::median;

/// Numbers closer than this are alike.
const ALIKE_FRACTION: f64 = 0.01;
/// As many as a page can hold.
const MAX_SHARED: usize = 20;
/// Stands for a field that a node does not have.
pub const ABSENT: &str = "(absent)";

/// A field in which a node is not as most others.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub field: String,
    pub value: String,
    pub usual: String,
    /// Nodes of the whole fleet with this value.
    pub nodes_alike: usize,
    /// How much more often bad nodes have it than the others; infinite where only bad ones do.
    lift: f64,
}

/// An unusual value that bad nodes have more often than the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    pub field: String,
    pub value: String,
    pub usual: String,
    pub bad: usize,
    pub bad_of: usize,
    pub others: usize,
    pub others_of: usize,
}

/// What most nodes have.
struct Usual {
    text: String,
    number: Option<f64>,
}

/// How many nodes have an unusual value.
#[derive(Default, Clone, Copy)]
struct Count {
    bad: usize,
    others: usize,
}

/// The differences of each bad node by its index, and what bad nodes share. `bad` has one for each node. Nodes without any description are left out.
pub fn compare(
    hosts: &Hosts,
    nodes: &[&Host],
    bad: &[bool],
) -> (HashMap<usize, Vec<Difference>>, Vec<Shared>) {
    let usual = usual_values(hosts, nodes);
    let described = || nodes.iter().zip(bad).enumerate().filter(|(_, (host, _))| !host.facts.is_empty());
    let mut counts: BTreeMap<(u32, String), Count> = BTreeMap::new();
    let mut unusual: Vec<(usize, u32, String)> = Vec::new();
    let mut of = Count::default();
    for (index, (host, bad)) in described() {
        if *bad {
            of.bad += 1;
        } else {
            of.others += 1;
        }
        for (field, usual) in &usual {
            let values = host.facts.get(field).map(Vec::as_slice).unwrap_or_default();
            if usual.is_among(hosts, values) {
                continue;
            }
            let value = if values.is_empty() { ABSENT.to_string() } else { hosts.value(host, *field) };
            let count = counts.entry((*field, value.clone())).or_default();
            if *bad {
                count.bad += 1;
                unusual.push((index, *field, value));
            } else {
                count.others += 1;
            }
        }
    }
    let usual_text = |field: &u32| usual.get(field).map_or(String::new(), |usual| usual.text.clone());
    let mut differences: HashMap<usize, Vec<Difference>> = HashMap::new();
    for (index, field, value) in unusual {
        let count = counts.get(&(field, value.clone())).copied().unwrap_or_default();
        differences.entry(index).or_default().push(Difference {
            field: hosts.fields.get(field).to_string(),
            value,
            usual: usual_text(&field),
            nodes_alike: count.bad + count.others,
            lift: lift(count, of),
        });
    }
    for list in differences.values_mut() {
        list.sort_by(|a, b| b.lift.total_cmp(&a.lift).then(b.nodes_alike.cmp(&a.nodes_alike)));
    }
    let mut shared: Vec<(f64, Shared)> = Vec::new();
    for ((field, value), count) in counts {
        let lift = lift(count, of);
        if count.bad >= 2 && lift >= 2.0 {
            let (field, usual) = (hosts.fields.get(field).to_string(), usual_text(&field));
            let (bad, bad_of, others, others_of) = (count.bad, of.bad, count.others, of.others);
            shared.push((lift, Shared { field, value, usual, bad, bad_of, others, others_of }));
        }
    }
    shared.sort_by(|a, b| b.1.bad.cmp(&a.1.bad).then(b.0.total_cmp(&a.0)));
    shared.truncate(MAX_SHARED);
    (differences, shared.into_iter().map(|(_, shared)| shared).collect())
}

fn lift(count: Count, of: Count) -> f64 {
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    share(count.bad, of.bad) / share(count.others, of.others)
}

impl Usual {
    fn is_among(&self, hosts: &Hosts, values: &[u32]) -> bool {
        if values.is_empty() {
            return self.text == ABSENT;
        }
        let alike = |value: &u32| {
            let number = hosts.values.number(*value);
            hosts.values.get(*value) == self.text
                || number.zip(self.number).is_some_and(|(a, b)| (a - b).abs() <= ALIKE_FRACTION * b.abs())
        };
        values.iter().any(alike)
    }
}

/// Per field, where there is one.
fn usual_values(hosts: &Hosts, nodes: &[&Host]) -> BTreeMap<u32, Usual> {
    let mut described = 0;
    let mut seen: BTreeMap<u32, Vec<&[u32]>> = BTreeMap::new();
    for host in nodes.iter().filter(|host| !host.facts.is_empty()) {
        described += 1;
        for (field, values) in &host.facts {
            seen.entry(*field).or_default().push(values);
        }
    }
    let says_something = |field: &u32| {
        let name = hosts.fields.get(*field);
        !name.ends_with("_s") && name != "notes"
    };
    let usual = |(field, values): (u32, Vec<&[u32]>)| Some((field, usual_value(hosts, described, &values)?));
    seen.into_iter().filter(|(field, _)| says_something(field)).filter_map(usual).collect()
}

fn usual_value(hosts: &Hosts, nodes: usize, values: &[&[u32]]) -> Option<Usual> {
    let most = |count: usize| count * 2 > nodes;
    if most(nodes - values.len()) {
        return Some(Usual { text: ABSENT.into(), number: None });
    }
    let mut counts: HashMap<u32, usize> = HashMap::new();
    values.iter().copied().flatten().for_each(|value| *counts.entry(*value).or_default() += 1);
    let (value, count) = counts.iter().max_by_key(|(value, count)| (**count, std::cmp::Reverse(**value)))?;
    if most(*count) {
        return Some(Usual { text: hosts.values.get(*value).into(), number: hosts.values.number(*value) });
    }
    let numbers: Vec<f64> =
        values.iter().copied().flatten().filter_map(|v| hosts.values.number(*v)).collect();
    let middle = median(&numbers)?;
    let usual = Usual { text: middle.to_string(), number: Some(middle) };
    most(values.iter().filter(|values| usual.is_among(hosts, values)).count()).then_some(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::find::Folder;
    use crate::analyze::host;
    use serde_json::{Value, json};

    fn compared(environments: &[Value], bad: &[bool]) -> (HashMap<usize, Vec<Difference>>, Vec<Shared>) {
        let hosts = hosts(environments);
        compare(&hosts, &hosts.hosts.iter().collect::<Vec<_>>(), bad)
    }

    fn hosts(environments: &[Value]) -> Hosts {
        let dir = tempfile::tempdir().unwrap();
        let folder = |(index, environment): (usize, &Value)| {
            let path = dir.path().join(index.to_string());
            std::fs::create_dir_all(&path).unwrap();
            let mut environment = environment.clone();
            environment["host"] = json!(format!("node-{index}"));
            std::fs::write(path.join("environment.json"), json!({ "r": environment }).to_string()).unwrap();
            let name = index.to_string();
            Folder { path, top: name.clone(), name, has_environment: true, searched: true }
        };
        let folders: Vec<Folder> = environments.iter().enumerate().map(folder).collect();
        host::read(&folders, &BTreeMap::new())
    }

    #[test]
    fn only_what_most_nodes_share_can_be_differed_from() {
        let usual = |serial: u32| json!({ "driver": "580", "serial": serial, "memory_bytes": 1000 + serial, "context_s": serial });
        let mut all: Vec<Value> = (0..6).map(usual).collect();
        all[4] =
            json!({ "driver": "550", "serial": 4, "memory_bytes": 512, "gpus": { "none": "no driver" } });
        all[5] = json!({ "driver": "550", "serial": 5, "memory_bytes": 1003 , "notes": ["of this run"] });
        let (differences, shared) = compared(&all, &[false, false, false, false, true, true]);
        let lines = |index: usize| -> Vec<String> {
            let line = |d: &Difference| format!("{}={} not {} {}", d.field, d.value, d.usual, d.nodes_alike);
            differences[&index].iter().map(line).collect()
        };
        assert_eq!(lines(5), ["driver=550 not 580 2"]);
        assert_eq!(
            lines(4),
            ["driver=550 not 580 2", "memory_bytes=512 not 1001.5 1", "gpus.none=no driver not (absent) 1"]
        );
        assert_eq!(shared.len(), 1);
        assert_eq!((shared[0].field.as_str(), shared[0].bad, shared[0].others), ("driver", 2, 0));
    }

    #[test]
    fn what_good_nodes_have_too_is_no_cause() {
        let all: Vec<Value> =
            (0..9).map(|n| json!({ "os": if n % 3 == 0 { "old" } else { "new" } })).collect();
        let bad: Vec<bool> = (0..9).map(|n| n == 0 || n == 1 || n == 3).collect();
        // Two of three bad nodes, one of six others: a lift of 4.
        assert_eq!(compared(&all, &bad).1.len(), 1);
        let bad: Vec<bool> = (0..9).map(|n| n == 0 || n == 1 || n == 2).collect();
        assert!(compared(&all, &bad).1.is_empty());
    }
}

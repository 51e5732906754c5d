//! What sets a machine apart: its description against that of most others.
//!
//! A field has a usual value where more than half of the nodes share it, numbers to within 1 % (memory sizes
//! differ by a few pages). Fields that differ everywhere, as serial numbers do, have none and say nothing;
//! fields that end in `_s` are measurements, and notes are of a run, not of its machine.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::analyze::read::hosts::{Fact, Host};
use crate::record::median::median;

/// Numbers closer than this are alike.
const ALIKE_FRACTION: f64 = 0.01;
/// As many as a page can hold.
const MAX_SHARED: usize = 20;
/// Stands for a field that a node does not have.
pub const ABSENT: &str = "(absent)";

/// A field in which a node is not as most others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub field: String,
    pub value: String,
    pub usual: String,
    /// Nodes of the whole fleet with this value.
    pub nodes_alike: usize,
    /// How much more often bad nodes have it than the others; infinite where only bad ones do.
    #[serde(skip)]
    lift: f64,
}

/// An unusual value that bad nodes have more often than the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shared {
    pub field: String,
    pub value: String,
    pub usual: String,
    #[serde(rename = "nodes")]
    pub bad: usize,
    #[serde(rename = "of_nodes")]
    pub bad_of: usize,
    pub others: usize,
    #[serde(rename = "of_others")]
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

/// The differences of each bad node by its index, and what bad nodes share. `bad` has one for each node. Nodes without
/// any description are left out.
pub fn compare(nodes: &[&Host], bad: &[bool]) -> (HashMap<usize, Vec<Difference>>, Vec<Shared>) {
    let facts: Vec<_> = nodes.iter().map(|host| host.facts()).collect();
    let described = || facts.iter().zip(bad).enumerate().filter(|(_, (facts, _))| !facts.is_empty());
    let usual = usual_values(&described().map(|(_, (facts, _))| facts).collect::<Vec<_>>());
    let mut counts: BTreeMap<(&str, String), Count> = BTreeMap::new();
    let mut unusual: Vec<(usize, &str, String)> = Vec::new();
    let mut of = Count::default();
    for (index, (facts, bad)) in described() {
        of.add(*bad);
        for (field, usual) in &usual {
            let values = facts.get(field).map(Vec::as_slice).unwrap_or_default();
            if usual.is_among(values) {
                continue;
            }
            let value = if values.is_empty() { ABSENT.to_string() } else { in_words(values) };
            counts.entry((*field, value.clone())).or_default().add(*bad);
            if *bad {
                unusual.push((index, *field, value));
            }
        }
    }
    let usual_text = |field: &str| usual.get(field).map_or(String::new(), |usual| usual.text.clone());
    let mut differences: HashMap<usize, Vec<Difference>> = HashMap::new();
    for (index, field, value) in unusual {
        let count = counts.get(&(field, value.clone())).copied().unwrap_or_default();
        let (lift, nodes_alike) = (lift(count, of), count.bad + count.others);
        let (usual, field) = (usual_text(field), field.to_string());
        differences.entry(index).or_default().push(Difference { field, value, usual, nodes_alike, lift });
    }
    for list in differences.values_mut() {
        list.sort_by(|a, b| b.lift.total_cmp(&a.lift).then(b.nodes_alike.cmp(&a.nodes_alike)));
    }
    let mut shared: Vec<(f64, Shared)> = Vec::new();
    for ((field, value), count) in counts {
        let lift = lift(count, of);
        if count.bad >= 2 && lift >= 2.0 {
            let (usual, field) = (usual_text(field), field.to_string());
            let (bad, bad_of, others, others_of) = (count.bad, of.bad, count.others, of.others);
            shared.push((lift, Shared { field, value, usual, bad, bad_of, others, others_of }));
        }
    }
    shared.sort_by(|a, b| b.1.bad.cmp(&a.1.bad).then(b.0.total_cmp(&a.0)));
    shared.truncate(MAX_SHARED);
    (differences, shared.into_iter().map(|(_, shared)| shared).collect())
}

/// What runs that are taken together differ in, a text for each field: `nvidia_driver (550, 580)`. `None` where one of
/// them is not described. Of `of_runs` each may be told twice.
pub fn between_runs(hosts: &[Host], of_runs: &[String]) -> Option<Vec<String>> {
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut of_field: BTreeMap<&str, usize> = BTreeMap::new();
    for run in of_runs {
        let described = hosts.iter().flat_map(|host| &host.runs).find(|described| described.run == *run)?;
        for fact in described.facts.iter().filter(|fact| is_of_the_machine(&fact.field)) {
            *of_field.entry(&fact.field).or_default() += 1;
            let values = seen.entry(&fact.field).or_default();
            if !values.contains(&fact.value.as_str()) {
                values.push(&fact.value);
            }
        }
    }
    for (field, values) in &mut seen {
        if of_field.get(field).is_some_and(|runs| *runs < of_runs.len()) {
            values.push(ABSENT);
        }
    }
    let differs = seen.into_iter().filter(|(_, values)| values.len() > 1);
    Some(differs.map(|(field, values)| format!("{field} ({})", values.join(", "))).collect())
}

/// Fields that end in `_s` are measurements; notes and the command are of a run.
fn is_of_the_machine(field: &str) -> bool {
    !field.ends_with("_s") && !matches!(field, "notes" | "command")
}

pub fn in_words(values: &[&Fact]) -> String {
    values.iter().map(|fact| fact.value.as_str()).collect::<Vec<_>>().join(" | ")
}

impl Count {
    fn add(&mut self, bad: bool) {
        *(if bad { &mut self.bad } else { &mut self.others }) += 1;
    }
}

fn lift(count: Count, of: Count) -> f64 {
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    share(count.bad, of.bad) / share(count.others, of.others)
}

impl Usual {
    fn is_among(&self, values: &[&Fact]) -> bool {
        if values.is_empty() {
            return self.text == ABSENT;
        }
        let near = |(a, b): (f64, f64)| (a - b).abs() <= ALIKE_FRACTION * b.abs();
        values.iter().any(|fact| fact.value == self.text || fact.number.zip(self.number).is_some_and(near))
    }
}

/// Per field, where there is one.
fn usual_values<'a>(nodes: &[&BTreeMap<&'a str, Vec<&'a Fact>>]) -> BTreeMap<&'a str, Usual> {
    let mut seen: BTreeMap<&str, Vec<&[&Fact]>> = BTreeMap::new();
    for facts in nodes {
        for (field, values) in
            facts.iter().filter(|(field, _)| is_of_the_machine(field) || **field == "command")
        {
            seen.entry(field).or_default().push(values);
        }
    }
    seen.into_iter().filter_map(|(field, values)| Some((field, usual_value(nodes.len(), &values)?))).collect()
}

fn usual_value(nodes: usize, values: &[&[&Fact]]) -> Option<Usual> {
    let most = |count: usize| count * 2 > nodes;
    if most(nodes - values.len()) {
        return Some(Usual { text: ABSENT.into(), number: None });
    }
    let mut counts: BTreeMap<&str, (usize, &Fact)> = BTreeMap::new();
    for fact in values.iter().copied().flatten() {
        counts.entry(&fact.value).or_insert((0, fact)).0 += 1;
    }
    let (count, fact) = counts.values().max_by_key(|(count, _)| *count)?;
    if most(*count) {
        return Some(Usual { text: fact.value.clone(), number: fact.number });
    }
    let numbers: Vec<f64> = values.iter().copied().flatten().filter_map(|fact| fact.number).collect();
    let middle = median(&numbers)?;
    let usual = Usual { text: middle.to_string(), number: Some(middle) };
    most(values.iter().filter(|values| usual.is_among(values)).count()).then_some(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    use crate::analyze::read::find::Folder;
    use crate::analyze::read::hosts;
    use crate::analyze::read::hosts::Hosts;

    fn compared(environments: &[Value], bad: &[bool]) -> (HashMap<usize, Vec<Difference>>, Vec<Shared>) {
        let hosts = hosts(environments);
        compare(&hosts.hosts.iter().collect::<Vec<_>>(), bad)
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
        hosts::read(&folders, &BTreeMap::new())
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
            ["driver=550 not 580 2", "gpus.none=no driver not (absent) 1", "memory_bytes=512 not 1001.5 1"]
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

    #[test]
    fn runs_that_are_taken_together_are_compared() {
        let all = hosts(&[
            json!({ "driver": "550", "context_s": 1 }),
            json!({ "driver": "580", "context_s": 2, "pool": 1 }),
        ]);
        let mut runs = all.hosts;
        for (host, run) in runs.iter_mut().zip(["a", "b"]) {
            host.runs[0].run = run.into();
            host.runs[0].facts.retain(|fact| fact.field != "host");
        }
        let of = |names: &[&str]| {
            between_runs(&runs, &names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a", "b"]).unwrap(), ["driver (550, 580)", "pool (1, (absent))"]);
        assert_eq!(of(&["a"]).unwrap(), [""; 0]);
        assert_eq!(of(&["a", "c"]), None);
    }
}

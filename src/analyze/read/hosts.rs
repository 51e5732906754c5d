//! Whose loads these are: the machines that `environment.json` describes, and what is known of each.
//!
//! A machine is told by its host name; where one name stands for different processors, by both, and where folders
//! of one name have different GPUs, by these. Loads that no description names a host for have none: a folder's name
//! says nothing of a machine, so all of them are one host's, without a name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::analyze::key::printable;
use crate::analyze::read::file::bytes_of;
use crate::analyze::read::find::Folder;
use crate::analyze::read::qualified::{Qualified, QualifyRecord};
use crate::os::parallel;
use crate::record::environment;

/// Stands for the name of the host that nothing names. No host name has spaces.
pub const UNNAMED: &str = "an unnamed host";

/// A value of a description.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// As `storage.model`, `gpus.0.name`.
    pub field: String,
    pub value: String,
    /// Where it is a number.
    pub number: Option<f64>,
}

/// What is described of one run's machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    pub run: String,
    pub facts: Vec<Fact>,
}

/// A machine.
#[derive(Debug, Default, PartialEq)]
pub struct Host {
    /// No two hosts share it.
    pub name: String,
    /// What its runs' environments say.
    pub runs: Vec<Described>,
    /// It loaded, or its description lies where results were searched for.
    pub is_node: bool,
    /// What `qualify` said of each storage path, the newest of each.
    pub verdicts: Vec<Qualified>,
    /// How many older ones it said of the same.
    pub older_verdicts: usize,
    /// Where it is described: each folder's `top`.
    pub tops: Vec<String>,
    /// Its GPUs, by their UUIDs.
    pub gpus: HashSet<String>,
}

/// Every machine, and which run belongs to which.
#[derive(Debug, Default)]
pub struct Hosts {
    pub hosts: Vec<Host>,
    pub notes: Vec<String>,
    names: HashSet<String>,
    /// Per folder: run to host.
    runs: Vec<HashMap<String, usize>>,
}

/// Reads every folder's description. `records` are those of `qualify`, by their folder.
pub fn read(folders: &[Folder], records: &BTreeMap<usize, QualifyRecord>) -> Hosts {
    let described = parallel::map(folders, |folder| match folder.has_environment {
        true => read_environment(&folder.path.join(environment::FILE)),
        false => Ok(Vec::new()),
    });
    let mut hosts = Hosts::default();
    let mut known: HashMap<(String, String), Vec<usize>> = HashMap::new();
    for (number, (folder, runs)) in folders.iter().zip(described).enumerate() {
        let mut runs = runs.unwrap_or_else(|error| {
            hosts.notes.push(format!("{error:#}; it names no host"));
            Vec::new()
        });
        let record = records.get(&number).filter(|record| runs.iter().all(|run| run.run != record.run_id));
        // The record's run is not described here but its host is, by another run: that description is the fuller one.
        let of_host = |run: &&Described, host: &str| run.text("host") == Some(host);
        let same_host = record.and_then(|record| runs.iter().find(|run| of_host(run, &record.host)));
        let alias = record.zip(same_host).map(|(record, run)| (record.run_id.clone(), run.run.clone()));
        if let Some(record) = record.filter(|_| alias.is_none()) {
            runs.push(Described::of_record(record));
        }
        let mut of_run = HashMap::new();
        for run in runs {
            let Some(name) = run.text("host").map(str::to_string) else { continue };
            let cpu = run.text("cpu.model").unwrap_or_default().to_string();
            let alike = known.entry((name.clone(), cpu)).or_default();
            let gpus = run.gpus();
            let index = hosts.same(alike, folder, &gpus).unwrap_or_else(|| {
                alike.push(hosts.add(&name, &folder.name));
                hosts.hosts.len() - 1
            });
            of_run.insert(run.run.clone(), index);
            let Some(host) = hosts.hosts.get_mut(index) else { continue };
            host.gpus.extend(gpus);
            host.is_node |= folder.searched;
            if !host.tops.contains(&folder.top) {
                host.tops.push(folder.top.clone());
            }
            host.runs.push(run);
        }
        if let Some((run, known)) = alias
            && let Some(host) = of_run.get(&known).copied()
        {
            of_run.insert(run, host);
        }
        hosts.runs.push(of_run);
    }
    hosts
}

/// Every run of an `environment.json`.
fn read_environment(path: &Path) -> Result<Vec<Described>> {
    let bytes = bytes_of(path)?;
    let all: Map<String, Value> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged, or not an object with one entry a run", path.display()))?;
    Ok(all.into_iter().map(|(id, environment)| Described::new(id, &environment)).collect())
}

impl Described {
    fn new(run: String, environment: &Value) -> Described {
        let mut facts = Vec::new();
        flatten("", environment, &mut facts);
        Described { run, facts }
    }

    fn of_record(record: &QualifyRecord) -> Described {
        let mut run = Described::new(record.run_id.clone(), &record.environment);
        if run.text("host").is_none() {
            let field = "host".to_string();
            run.facts.push(Fact { field, value: record.host.clone(), number: None });
        }
        run
    }

    /// By their UUIDs.
    fn gpus(&self) -> HashSet<String> {
        let is_uuid = |fact: &&Fact| fact.field.starts_with("gpus.") && fact.field.ends_with(".uuid");
        self.facts.iter().filter(is_uuid).map(|fact| fact.value.clone()).collect()
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        let fact = self.facts.iter().find(|fact| fact.field == field)?;
        Some(fact.value.as_str()).filter(|text| !text.is_empty())
    }
}

/// `{"cpu": {"threads": 2}}` is `cpu.threads` = `2`. A list of plain values is one value; null says nothing.
fn flatten(path: &str, value: &Value, facts: &mut Vec<Fact>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    let mut add = |value: String, number| facts.push(Fact { field: path.to_string(), value, number });
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&below(&printable(name)), value, facts));
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(n, item)| flatten(&below(&n.to_string()), item, facts));
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => add(items.iter().map(plain).collect::<Vec<_>>().join(" "), None),
        value => add(plain(value), value.as_f64()),
    }
}

fn plain(value: &Value) -> String {
    printable(&value.as_str().map_or_else(|| value.to_string(), str::to_string))
}

impl Host {
    /// Its distinct values of each field.
    pub fn facts(&self) -> BTreeMap<&str, Vec<&Fact>> {
        let mut facts: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
        for fact in self.runs.iter().flat_map(|run| &run.facts) {
            let values = facts.entry(&fact.field).or_default();
            if !values.iter().any(|known| known.value == fact.value) {
                values.push(fact);
            }
        }
        facts
    }
}

impl Hosts {
    #[cfg(test)]
    pub fn of(hosts: Vec<Host>) -> Hosts {
        Hosts { hosts, ..Hosts::default() }
    }

    /// A name that is taken gets the folder's behind it, and a number where that is taken, too.
    fn add(&mut self, name: &str, folder: &str) -> usize {
        let others = (1u32..).map(|n| match n {
            1 => format!("{name} ({folder})"),
            n => format!("{name} ({folder}, {n})"),
        });
        let mut names = std::iter::once(name.to_string()).chain(others);
        let name = names.find(|name| self.names.insert(name.clone())).unwrap_or_default();
        self.hosts.push(Host { name, ..Host::default() });
        self.hosts.len() - 1
    }

    /// Which of the hosts `alike` (same name, same processor) this folder describes: one known from the same top folder,
    /// else one whose GPUs do not rule it out.
    fn same(&self, alike: &[usize], folder: &Folder, gpus: &HashSet<String>) -> Option<usize> {
        let find = |is: &dyn Fn(&Host) -> bool| {
            alike.iter().copied().find(|index| self.hosts.get(*index).is_some_and(is))
        };
        let not_told_apart =
            |host: &Host| gpus.is_empty() || host.gpus.is_empty() || !host.gpus.is_disjoint(gpus);
        find(&|host| host.tops.contains(&folder.top)).or_else(|| find(&not_told_apart))
    }

    /// Of each path, the newest verdict counts.
    pub fn qualify(&mut self, folder: usize, run_id: &str, new: Qualified) {
        let name = self.of_run(folder, run_id).to_string();
        let host = self.node(&name);
        match host.verdicts.iter_mut().find(|known| known.path == new.path) {
            None => host.verdicts.push(new),
            Some(known) => {
                host.older_verdicts += 1;
                if new.started_at_s > known.started_at_s {
                    *known = new;
                }
            }
        }
    }

    /// Hosts of these names are nodes.
    pub fn mark(&mut self, names: &HashSet<String>) {
        if names.contains(UNNAMED) {
            self.node(UNNAMED);
        }
        let loaded = self.hosts.iter_mut().filter(|host| names.contains(&host.name));
        loaded.for_each(|host| host.is_node = true);
    }

    /// The host of this name, which is a node from now on.
    fn node(&mut self, name: &str) -> &mut Host {
        let known = self.hosts.iter().position(|host| host.name == name);
        let index = known.unwrap_or_else(|| self.add(name, ""));
        let host = &mut self.hosts[index];
        host.is_node = true;
        host
    }

    /// The name of a run's host. A run that is not described, or has no name, belongs to the only host of its folder's
    /// description; where there is none, to the host without a name.
    pub fn of_run(&self, folder: usize, run_id: &str) -> &str {
        let name = |index: &usize| self.hosts.get(*index).map_or(UNNAMED, |host| host.name.as_str());
        let Some(runs) = self.runs.get(folder) else { return UNNAMED };
        if let Some(host) = runs.get(run_id) {
            return name(host);
        }
        let mut described = runs.values();
        match described.next() {
            Some(first) if described.all(|host| host == first) => name(first),
            _ => UNNAMED,
        }
    }

    /// Every verdict of `qualify`, host by host.
    pub fn verdicts_json(&self) -> Vec<Value> {
        let with_host = |host: &Host, verdict: &Qualified| {
            let mut json = json!(verdict);
            json["host"] = host.name.clone().into();
            json
        };
        let all = self.hosts.iter().flat_map(|host| host.verdicts.iter().map(move |verdict| (host, verdict)));
        all.map(|(host, verdict)| with_host(host, verdict)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Writes `environment.json` files, and reads them.
    fn hosts(environments: &[(&str, Value)]) -> Hosts {
        let dir = tempfile::tempdir().unwrap();
        let folder = |(name, environment): &(&str, Value)| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(environment::FILE), environment.to_string()).unwrap();
            let name = name.to_string();
            Folder { path, top: name.clone(), name, has_environment: true, searched: true }
        };
        read(&environments.iter().map(folder).collect::<Vec<_>>(), &BTreeMap::new())
    }

    fn on(host: &str, cpu: &str) -> Value {
        json!({ "host": host, "cpu": { "model": cpu, "threads": 2 }, "notes": ["a", "b"], "model": null })
    }

    #[test]
    fn a_host_is_told_by_its_name_and_its_processor() {
        let all = hosts(&[
            ("warm", json!({ "r1": on("vm", "Xeon") })),
            ("cold", json!({ "r2": on("vm", "Xeon") })),
            ("other", json!({ "r3": on("vm", "EPYC") })),
        ]);
        let host = [(0, "r1"), (1, "r2"), (2, "r3")].map(|(folder, run)| all.of_run(folder, run));
        assert_eq!(host, ["vm", "vm", "vm (other)"]);
    }

    #[test]
    fn clones_are_told_apart_by_their_gpus() {
        let with = |gpus: &[&str]| {
            let mut environment = on("vm", "x");
            environment["gpus"] = gpus.iter().map(|uuid| json!({ "uuid": uuid })).collect();
            json!({ "r": environment })
        };
        let all = hosts(&[
            ("a", with(&["1", "2"])),
            ("b", with(&["3"])),
            ("c", with(&["2"])),
            ("d", with(&["3", "4"])),
            ("e", with(&[])),
        ]);
        let found: Vec<(&str, String)> =
            all.hosts.iter().map(|host| (host.name.as_str(), host.tops.join(" "))).collect();
        assert_eq!(found, [("vm", "a c e".to_string()), ("vm (b)", "b d".into())]);
    }

    #[test]
    fn a_folder_is_a_host_only_where_it_says_so() {
        let all = hosts(&[
            ("one", json!({ "r1": on("a", "x") })),
            ("two", json!({ "r1": on("a", "x"), "r2": on("b", "x") })),
            ("three", json!({})),
            ("four", json!({ "": { "kernel": "6" } })),
        ]);
        assert_eq!([all.of_run(0, ""), all.of_run(1, "r2")], ["a", "b"]);
        // Which of two hosts it was is not said, either.
        let unnamed = [(1, ""), (2, "r"), (2, "s"), (3, "")].map(|(folder, run)| all.of_run(folder, run));
        assert_eq!(unnamed, [UNNAMED; 4]);
    }

    #[test]
    fn facts_are_flat_and_distinct() {
        let mut second = on("a", "x");
        second["cpu"]["threads"] = json!(4);
        second["gpus"] = json!([{ "name": "H\u{1b}200" }]);
        let all = hosts(&[("f", json!({ "r1": on("a", "x"), "r2": second }))]);
        let facts = all.hosts[0].facts();
        let line = |(field, values): (&&str, &Vec<&Fact>)| {
            let values: Vec<&str> = values.iter().map(|fact| fact.value.as_str()).collect();
            format!("{field} = {}", values.join(" | "))
        };
        let lines: Vec<String> = facts.iter().map(line).collect();
        let expected =
            ["cpu.model = x", "cpu.threads = 2 | 4", "gpus.0.name = H\u{fffd}200", "host = a", "notes = a b"];
        assert_eq!(lines, expected);
        let numbers: Vec<Option<f64>> = facts["cpu.threads"].iter().map(|fact| fact.number).collect();
        assert_eq!(numbers, [Some(2.0), Some(4.0)]);
    }

    #[test]
    fn a_damaged_description_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(environment::FILE), "[").unwrap();
        let (path, name) = (dir.path().to_path_buf(), "f".to_string());
        let folder = Folder { path, top: name.clone(), name, has_environment: true, searched: true };
        let all = read(&[folder], &BTreeMap::new());
        assert!(all.notes[0].contains("environment.json is damaged"), "{:?}", all.notes);
        assert_eq!(all.of_run(0, "r"), UNNAMED);
    }
}

//! Whose loads these are: the machines that `environment.json` describes, and what is known of each.
//!
//! A machine is told by its host name; where one name stands for different processors, by both, and where folders
//! of one name have different GPUs, by these. Loads that no description names a host for have none: a folder's name
//! says nothing of a machine, so all of them are one host's, without a name.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::analyze::description::{DescribedRun, Fact, read_environment};
use crate::analyze::find::Folder;
use crate::analyze::interner::Interner;
use crate::analyze::qualified;
use crate::analyze::qualified::Qualified;
use crate::os::parallel;
use crate::record::environment;

/// Stands for the name of the host that nothing names. No host name has spaces.
pub const UNNAMED: &str = "an unnamed host";

/// A machine.
#[derive(Debug, Default, PartialEq)]
pub struct Host {
    /// No two hosts share it.
    pub name: String,
    /// What its runs' environments say: field to distinct values, as indices into `Hosts::fields` and `values`.
    pub facts: BTreeMap<u32, Vec<u32>>,
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
    /// As `storage.model`, `gpus.0.name`.
    pub fields: Interner,
    pub values: Interner,
    pub notes: Vec<String>,
    names: HashSet<String>,
    /// Per folder: run to host.
    runs: Vec<HashMap<String, u32>>,
    /// The host of all loads that nothing names one for, once it was asked for.
    unnamed: Option<u32>,
}

/// Reads every folder's description. `records` are those of `qualify`, by their folder.
pub fn read(folders: &[Folder], records: &BTreeMap<usize, qualified::QualifyRecord>) -> Hosts {
    let described = parallel::map(folders, |folder| match folder.has_environment {
        true => read_environment(&folder.path.join(environment::FILE)),
        false => Ok(Vec::new()),
    });
    let mut hosts = Hosts::default();
    let mut known: HashMap<(String, String), Vec<u32>> = HashMap::new();
    for (number, (folder, runs)) in folders.iter().zip(described).enumerate() {
        let mut runs = runs.unwrap_or_else(|error| {
            hosts.notes.push(format!("{error:#}; it names no host"));
            Vec::new()
        });
        let record = records.get(&number).filter(|record| runs.iter().all(|run| run.id != record.run_id));
        // The record's run is not described here but its host is, by another run: that description is the fuller one.
        let known_run = |record: &qualified::QualifyRecord| {
            let of_host = |run: &&DescribedRun| run.text("host") == Some(&record.host);
            runs.iter().find(of_host).map(|run| run.id.clone())
        };
        let alias = record.and_then(|record| Some((record.run_id.clone(), known_run(record)?)));
        if let Some(record) = record.filter(|_| alias.is_none()) {
            runs.push(DescribedRun::of(record));
        }
        let mut run_hosts = HashMap::new();
        for run in runs {
            let Some(name) = run.text("host").map(str::to_string) else { continue };
            let cpu = run.text("cpu.model").unwrap_or_default().to_string();
            let alike = known.entry((name.clone(), cpu)).or_default();
            let index = hosts.same(alike, folder, run.gpus()).unwrap_or_else(|gpus| {
                let index = hosts.add(&name, &folder.name);
                alike.push(index);
                hosts.locate(index, folder, gpus);
                index
            });
            hosts.learn(index, &run.facts);
            hosts.mark(index, folder.searched);
            run_hosts.insert(run.id, index);
        }
        if let Some((run, known)) = alias
            && let Some(host) = run_hosts.get(&known).copied()
        {
            run_hosts.insert(run, host);
        }
        hosts.runs.push(run_hosts);
    }
    hosts
}

impl Hosts {
    #[cfg(test)]
    pub fn of(hosts: Vec<Host>) -> Hosts {
        Hosts { hosts, ..Hosts::default() }
    }

    /// A name that is taken gets the folder's behind it, and a number where that is taken, too.
    fn add(&mut self, name: &str, folder: &str) -> u32 {
        let others = (1u32..).map(|n| match n {
            1 => format!("{name} ({folder})"),
            n => format!("{name} ({folder}, {n})"),
        });
        let mut names = std::iter::once(name.to_string()).chain(others);
        let name = names.find(|name| self.names.insert(name.clone())).unwrap_or_default();
        self.hosts.push(Host { name, ..Host::default() });
        self.hosts.len() as u32 - 1
    }

    /// Which of the hosts `alike` (same name, same processor) this folder describes: one known from the same top folder,
    /// else one whose GPUs do not rule it out. Without one, `gpus` come back as the error.
    fn same(
        &mut self,
        alike: &[u32],
        folder: &Folder,
        gpus: HashSet<String>,
    ) -> Result<u32, HashSet<String>> {
        let find = |is: &dyn Fn(&Host) -> bool| {
            alike.iter().copied().find(|index| self.hosts.get(*index as usize).is_some_and(is))
        };
        let not_told_apart =
            |host: &Host| gpus.is_empty() || host.gpus.is_empty() || !host.gpus.is_disjoint(&gpus);
        let Some(index) = find(&|host| host.tops.contains(&folder.top)).or_else(|| find(&not_told_apart))
        else {
            return Err(gpus);
        };
        self.locate(index, folder, gpus);
        Ok(index)
    }

    fn locate(&mut self, host: u32, folder: &Folder, gpus: HashSet<String>) {
        let Some(host) = self.hosts.get_mut(host as usize) else { return };
        host.gpus.extend(gpus);
        if !host.tops.contains(&folder.top) {
            host.tops.push(folder.top.clone());
        }
    }

    /// Of each path, the newest verdict counts.
    pub fn qualify(&mut self, host: u32, new: Qualified) {
        let Some(host) = self.hosts.get_mut(host as usize) else { return };
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

    fn mark(&mut self, host: u32, is_node: bool) {
        if let Some(host) = self.hosts.get_mut(host as usize) {
            host.is_node |= is_node;
        }
    }

    fn learn(&mut self, host: u32, facts: &[Fact]) {
        for (field, value, number) in facts {
            let (field, value) = (self.fields.index(field), self.values.index(value));
            if let Some(number) = number {
                self.values.set_number(value, *number);
            }
            let Some(host) = self.hosts.get_mut(host as usize) else { continue };
            let values = host.facts.entry(field).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }

    /// The host of a run. A run that is not described, or has no name, belongs to the only host of its folder's
    /// description; where there is none, to the host without a name.
    pub fn of_run(&mut self, folder: usize, run_id: &str) -> u32 {
        let host = self.find(folder, run_id);
        self.mark(host, true);
        host
    }

    fn find(&mut self, folder: usize, run_id: &str) -> u32 {
        let runs = self.runs.get(folder);
        if let Some(host) = runs.and_then(|runs| runs.get(run_id)) {
            return *host;
        }
        let mut described = runs.into_iter().flat_map(HashMap::values);
        if let Some(first) = described.next()
            && described.all(|host| host == first)
        {
            return *first;
        }
        let host = self.unnamed.unwrap_or_else(|| self.add(UNNAMED, ""));
        self.unnamed = Some(host);
        host
    }

    /// Every verdict of `qualify`, host by host.
    pub fn verdicts_json(&self) -> Vec<Value> {
        let with_host = |host: &Host, verdict: &Qualified| {
            let mut json = verdict.json();
            json["host"] = host.name.clone().into();
            json
        };
        let of_host =
            |host: &'_ Host| host.verdicts.iter().map(|verdict| with_host(host, verdict)).collect::<Vec<_>>();
        self.hosts.iter().flat_map(of_host).collect()
    }

    pub fn is_unnamed(&self, host: u32) -> bool {
        self.unnamed == Some(host)
    }

    /// A host's values of a field in words; empty where it has none.
    pub fn value(&self, host: &Host, field: u32) -> String {
        let values = host.facts.get(&field).map(Vec::as_slice).unwrap_or_default();
        values.iter().map(|value| self.values.get(*value)).collect::<Vec<_>>().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use serde_json::json;

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
        let mut all = hosts(&[
            ("warm", json!({ "r1": on("vm", "Xeon") })),
            ("cold", json!({ "r2": on("vm", "Xeon") })),
            ("other", json!({ "r3": on("vm", "EPYC") })),
        ]);
        let host = [(0, "r1"), (1, "r2"), (2, "r3")].map(|(folder, run)| all.of_run(folder, run));
        assert_eq!(host, [0, 0, 1]);
        let names: Vec<&str> = all.hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["vm", "vm (other)"]);
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
        let mut all = hosts(&[
            ("one", json!({ "r1": on("a", "x") })),
            ("two", json!({ "r1": on("a", "x"), "r2": on("b", "x") })),
            ("three", json!({})),
            ("four", json!({ "": { "kernel": "6" } })),
        ]);
        assert_eq!([all.of_run(0, ""), all.of_run(1, "r2")], [0, 1]);
        // Which of two hosts it was is not said, either.
        let unnamed = [(1, ""), (2, "r"), (2, "s"), (3, "")].map(|(folder, run)| all.of_run(folder, run));
        assert_eq!(unnamed, [2; 4]);
        assert_eq!(all.hosts[2].name, UNNAMED);
        assert!(all.is_unnamed(2) && !all.is_unnamed(1));
    }

    #[test]
    fn facts_are_flat_and_distinct() {
        let mut second = on("a", "x");
        second["cpu"]["threads"] = json!(4);
        second["gpus"] = json!([{ "name": "H\u{1b}200" }]);
        let all = hosts(&[("f", json!({ "r1": on("a", "x"), "r2": second }))]);
        let host = &all.hosts[0];
        let facts: Vec<(&str, String)> =
            host.facts.keys().map(|field| (all.fields.get(*field), all.value(host, *field))).collect();
        let expected = [
            ("host", "a".to_string()),
            ("cpu.model", "x".into()),
            ("cpu.threads", "2 | 4".into()),
            ("notes", "a b".into()),
            ("gpus.0.name", "H\u{fffd}200".into()),
        ];
        assert_eq!(facts, expected);
        let threads = &host.facts[&2];
        assert_eq!(threads.iter().map(|v| all.values.number(*v)).collect::<Vec<_>>(), [Some(2.0), Some(4.0)]);
    }

    #[test]
    fn a_damaged_description_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(environment::FILE), "[").unwrap();
        let (path, name) = (dir.path().to_path_buf(), "f".to_string());
        let folder = Folder { path, top: name.clone(), name, has_environment: true, searched: true };
        let mut all = read(&[folder], &BTreeMap::new());
        assert!(all.notes[0].contains("environment.json is damaged"), "{:?}", all.notes);
        assert_eq!(all.of_run(0, "r"), 0);
    }
}

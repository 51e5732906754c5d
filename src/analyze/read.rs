//! Result files to loads: which files there are, what each holds, and whose each load is.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::analyze::file;
use crate::analyze::file::Content;
use crate::analyze::find;
use crate::analyze::group_key::{GroupKey, printable};
use crate::analyze::host;
use crate::analyze::host::Hosts;
use crate::analyze::identity_warnings::Unnamed;
use crate::analyze::loads::Loads;
use crate::analyze::qualified;
use crate::os::parallel;
use crate::os::text;

/// One record, as far as figures go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// An index into the keys.
    pub group: u32,
    /// Absent when the load failed, gave no usable time, or delivered wrong bytes.
    pub time_s: Option<f64>,
    pub bytes: Option<f64>,
    /// It was meant to find the page cache empty, and did not.
    pub warm_by_mistake: bool,
    pub verified: bool,
    /// Inference after the load, where a record has it.
    pub tokens_per_s: Option<f64>,
    /// Loads of one run have the same.
    pub run: u32,
}

/// Everything that could be read, and what has to be said about the rest.
#[derive(Debug, Default)]
pub struct Input {
    /// One for each group of each host; sorted.
    pub keys: Vec<GroupKey>,
    pub loads: Vec<Load>,
    /// Every machine that loaded, or that is described beside.
    pub hosts: Hosts,
    /// The files that hold the loads.
    pub files: Vec<SourceFile>,
    pub notes: Vec<String>,
}

/// A file that was read.
#[derive(Debug)]
pub struct SourceFile {
    pub path: PathBuf,
    /// Each run in it, and the run's host as an index into `Hosts::hosts`.
    pub run_hosts: Vec<(String, u32)>,
}

impl Input {
    /// Hosts with at least one load, or a verdict of `qualify`.
    pub fn host_count(&self) -> usize {
        let qualified = self.hosts.hosts.iter().filter(|host| !host.verdicts.is_empty());
        let mut names: Vec<&str> = self.keys.iter().map(|key| key.host.as_str()).collect();
        names.extend(qualified.map(|host| host.name.as_str()));
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// Whether nothing names a host for any of its loads.
    pub fn names_no_host(&self) -> bool {
        self.keys.iter().all(|key| key.host == host::UNNAMED)
    }

    /// For loads of one host, whose name then says nothing.
    pub fn forget_host(&mut self) {
        self.keys.iter_mut().for_each(|key| key.host.clear());
    }
}

/// Reads files, and directories with what lies below them. A file that cannot be used is named in the notes.
/// Fails where a path does not exist, or where nothing at all could be read.
pub fn read(paths: &[PathBuf]) -> Result<Input> {
    let found = find::find(paths)?;
    let mut notes = found.notes;
    let records = read_verdicts(&found.verdicts, &mut notes);
    let mut hosts = host::read(&found.folders, &records);
    let contents = parallel::map(&found.files, |file| file::read(&file.path));

    let verdicts = records.len();
    for (folder, record) in records {
        let host = hosts.of_run(folder, &record.run_id);
        hosts.qualify(host, record.qualified);
    }
    let mut gather = Gather::default();
    let mut unnamed = Unnamed::default();
    let mut files = Vec::new();
    let mut others = Vec::new();
    for (file, content) in found.files.into_iter().zip(contents) {
        match content {
            Content::Loads(loads) if loads.loads.is_empty() => {
                notes.push(format!("{}: holds no records", file.path.display()));
            }
            Content::Loads(mut loads) => {
                let path = file.path.display();
                notes.extend(loads.notes.drain(..).map(|note| format!("{path}: {note}")));
                let run_hosts: Vec<u32> =
                    loads.run_ids.iter().map(|run| hosts.of_run(file.folder, run)).collect();
                if run_hosts.iter().any(|host| hosts.is_unnamed(*host)) {
                    unnamed.add(&loads.keys, file.folder);
                }
                let named = loads.run_ids.iter().cloned().zip(run_hosts.iter().copied()).collect();
                files.push(SourceFile { path: file.path, run_hosts: named });
                gather.add(loads, &run_hosts);
            }
            Content::Other => others.push(file.path),
            Content::Damaged(error) => notes.push(format!("{error:#}; skipped")),
        }
    }
    if let Some(first) = others.first() {
        notes.push(format!(
            "{} other JSON files hold no loads: skipped ({}, …)",
            others.len(),
            first.display()
        ));
    }
    if gather.loads.is_empty() && verdicts == 0 {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let why = match notes.as_slice() {
            [] => "there is no *.json file; `sllm-gds bench` writes them".to_string(),
            notes => text::in_short(notes),
        };
        bail!("no results could be read from {}: {why}", names.join(", "));
    }
    notes.append(&mut hosts.notes);
    notes.extend(unnamed.note(&found.folders));
    let (keys, loads) = gather.finish(&hosts);
    // They hold names of files and what parsers cite.
    let notes = notes.iter().map(|note| printable(note)).collect();
    Ok(Input { keys, loads, hosts, files, notes })
}

/// By their folder. One that can't be read is named in the notes.
fn read_verdicts(files: &[find::File], notes: &mut Vec<String>) -> BTreeMap<usize, qualified::QualifyRecord> {
    let contents = parallel::map(files, |file| qualified::read(&file.path));
    let mut records = BTreeMap::new();
    for (file, content) in files.iter().zip(contents) {
        match content {
            Ok(record) => drop(records.insert(file.folder, record)),
            Err(error) => notes.push(format!("{error:#}; skipped")),
        }
    }
    records
}

/// Gives every key, host and run one number over all files.
#[derive(Default)]
struct Gather {
    keys: HashMap<GroupKey, u32>,
    runs: HashMap<String, u32>,
    /// GroupKey and host to group.
    groups: HashMap<(u32, u32), u32>,
    loads: Vec<Load>,
}

impl Gather {
    /// `hosts` has one for each run of the file.
    fn add(&mut self, file: Loads, hosts: &[u32]) {
        let keys: Vec<u32> = file.keys.into_iter().map(|key| number(&mut self.keys, key)).collect();
        let runs: Vec<u32> = file.run_ids.into_iter().map(|run| number(&mut self.runs, run)).collect();
        self.loads.reserve(file.loads.len());
        for load in file.loads {
            let parts =
                (keys.get(load.key as usize), runs.get(load.run as usize), hosts.get(load.run as usize));
            let (Some(key), Some(run), Some(host)) = parts else { continue };
            self.loads.push(Load {
                group: number(&mut self.groups, (*key, *host)),
                time_s: load.time_s,
                bytes: load.bytes,
                warm_by_mistake: load.warm_by_mistake,
                verified: load.verified,
                tokens_per_s: load.tokens_per_s,
                run: *run,
            });
        }
    }

    /// Sorts the groups' keys, and renumbers the loads.
    fn finish(mut self, hosts: &Hosts) -> (Vec<GroupKey>, Vec<Load>) {
        let by_number: HashMap<u32, GroupKey> =
            self.keys.into_iter().map(|(key, number)| (number, key)).collect();
        let full = |((key, host), group): ((u32, u32), u32)| {
            let name = hosts.hosts.get(host as usize).map_or("", |host| &host.name);
            Some((by_number.get(&key)?.with_host(name), group))
        };
        let mut groups: Vec<(GroupKey, u32)> = self.groups.into_iter().filter_map(full).collect();
        groups.sort_unstable();
        let mut places = vec![0; groups.len()];
        for (place, (_, group)) in groups.iter().enumerate() {
            if let Some(slot) = places.get_mut(*group as usize) {
                *slot = place as u32;
            }
        }
        for load in &mut self.loads {
            load.group = places.get(load.group as usize).copied().unwrap_or(0);
        }
        (groups.into_iter().map(|(key, _)| key).collect(), self.loads)
    }
}

fn number<T: Eq + std::hash::Hash>(numbers: &mut HashMap<T, u32>, item: T) -> u32 {
    let next = numbers.len() as u32;
    *numbers.entry(item).or_insert(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn titles(input: &Input) -> Vec<String> {
        input.keys.iter().map(GroupKey::title).collect()
    }

    #[test]
    fn loads_know_their_host_in_folders_and_in_one_flat_one() {
        let record = |run: &str| format!(r#"{{"model_name":"m_0","loading_time":1.0,"run_id":"{run}"}}"#);
        let environment = r#"{"r1":{"host":"one"},"r2":{"host":"two"}}"#;
        let flat = tempfile::tempdir().unwrap();
        write(flat.path().join("environment.json"), environment);
        write(
            flat.path().join("m_sllm_3_cached.json"),
            &format!("[{},{},{}]", record("r1"), record("r2"), record("r1")),
        );
        let input = read(&[flat.path().into()]).unwrap();
        assert_eq!(titles(&input), ["m, cached, on one: sllm", "m, cached, on two: sllm"]);
        assert_eq!(input.loads.iter().map(|load| load.group).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(input.host_count(), 2);

        let deep = tempfile::tempdir().unwrap();
        for (folder, run) in [("b", "r1"), ("a", "r2"), ("c/cold", "r1"), ("c/warm", "")] {
            if folder != "c/warm" {
                write(deep.path().join(folder).join("environment.json"), environment);
            }
            write(deep.path().join(folder).join("m_sllm_1_cached.json"), &format!("[{}]", record(run)));
        }
        let input = read(&[deep.path().into()]).unwrap();
        let expected = ["an unnamed host", "one", "two"].map(|host| format!("m, cached, on {host}: sllm"));
        assert_eq!(titles(&input), expected);
    }

    #[test]
    fn what_cannot_be_used_is_told_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let record = r#"[{"model_name":"m_0","loading_time":1.0}]"#;
        write(dir.path().join("m_sllm_1_cached.json"), record);
        for name in ["verify.json", "ceiling.json"] {
            write(dir.path().join("below").join(name), "{}");
        }
        write(dir.path().join("below/empty_sllm_1_cached.json"), "[]");
        write(dir.path().join("below/m_sllm_1_cached.json"), "[{");
        let input = read(&[dir.path().into()]).unwrap();
        assert_eq!(input.loads.len(), 1);
        let [empty, damaged, others] = input.notes.as_slice() else { panic!("{:?}", input.notes) };
        assert!(empty.contains("empty_sllm") && empty.contains("no records"), "{empty}");
        assert!(damaged.contains("m_sllm") && damaged.contains("line 1"), "{damaged}");
        assert!(others.contains("2 other JSON files") && others.contains("ceiling.json"), "{others}");
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", read(&[path.into()]).unwrap_err());
        assert!(error(dir.path()).contains("no *.json file"));
        assert!(error(&dir.path().join("absent")).contains("No such file"));
        write(dir.path().join("m_sllm_0_cached.json"), "[]");
        assert!(error(dir.path()).contains("holds no records"));
    }
}

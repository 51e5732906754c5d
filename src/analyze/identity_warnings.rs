//! Folders of several machines that may have been taken for one.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::find::Folder;
use crate::analyze::group_key::GroupKey;
use crate::analyze::host::{Host, Hosts};

/// Of folders in one message.
const MAX_TOPS: usize = 8;

impl Hosts {
    /// A line for each node that may be several machines taken for one: it has more than one verdict of a path, or, in a
    /// fleet whose nodes mostly have one folder each, it has several folders.
    pub fn identity_warnings(&self, by_host: bool) -> Vec<String> {
        let nodes = || self.hosts.iter().filter(|host| host.is_node);
        let usual = by_host && nodes().filter(|host| host.tops.len() > 1).count() * 2 < nodes().count();
        let warning = |host: &Host| {
            let older = match host.older_verdicts {
                0 => None,
                n => Some(format!("{}: {n} older verdicts of qualify are left out", host.name)),
            };
            let shared = shared_name(host).filter(|_| usual || older.is_some());
            let parts: Vec<String> = older.into_iter().chain(shared).collect();
            (!parts.is_empty()).then(|| parts.join(". "))
        };
        nodes().filter_map(warning).collect()
    }
}

/// Folders with loads that nothing names a host for. Where several have loads of the same kind, these may be of several
/// machines.
#[derive(Debug, Default)]
pub struct Unnamed {
    /// Model, mode, destination and cache state to the folders with such loads.
    sections: BTreeMap<[String; 4], BTreeSet<usize>>,
}

impl Unnamed {
    pub fn add(&mut self, keys: &[GroupKey], folder: usize) {
        for key in keys {
            let [model, mode, destination, cache_state, _] = key.section().map(str::to_string);
            self.sections.entry([model, mode, destination, cache_state]).or_default().insert(folder);
        }
    }

    /// Where loads of several folders come together.
    pub fn note(&self, folders: &[Folder]) -> Option<String> {
        let several = self.sections.values().filter(|folders| folders.len() > 1).flatten();
        let several: BTreeSet<usize> = several.copied().collect();
        let names =
            several.iter().filter_map(|folder| folders.get(*folder)).map(|folder| folder.name.as_str());
        let shown: Vec<&str> = names.take(MAX_TOPS).collect();
        (!several.is_empty()).then(|| {
            format!(
                "{} folders do not say their host, and their loads are taken together: {}{}. If they are of several \
                 machines, put an environment.json with {{\"run\": {{\"host\": \"NAME\"}}}} into each",
                several.len(),
                shown.join(", "),
                more(several.len())
            )
        })
    }
}

fn more(count: usize) -> String {
    let more = count.saturating_sub(MAX_TOPS);
    if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// What to do where several folders are of one host and should not be.
pub fn shared_name(host: &Host) -> Option<String> {
    let shown: Vec<&str> = host.tops.iter().take(MAX_TOPS).map(String::as_str).collect();
    let more = more(host.tops.len());
    (host.tops.len() > 1).then(|| {
        format!(
            "{} folders share the host name {}: {}{more}. If they are of several machines, give each a name of its own \
             (hostnamectl set-hostname) and measure again, or change \"host\" in each folder's environment.json",
            host.tops.len(),
            host.name,
            shown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, tops: &[&str], older_verdicts: usize) -> Host {
        let tops = tops.iter().map(|top| top.to_string()).collect();
        Host { name: name.into(), is_node: true, tops, older_verdicts, ..Host::default() }
    }

    #[test]
    fn a_node_with_several_folders_is_told_where_the_others_have_one() {
        let fleet =
            |b: &[&str]| Hosts::of(vec![host("a", &["f/1"], 0), host("b", b, 0), host("c", &["f/4"], 0)]);
        let warnings = fleet(&["f/2", "f/3"]).identity_warnings(true);
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(warning.contains("2 folders share the host name b: f/2, f/3. If"), "{warning}");
        assert!(fleet(&["f/2"]).identity_warnings(true).is_empty());
        // Warm and cold loads of one host lie in two folders.
        assert!(Hosts::of(vec![host("a", &["warm", "cold"], 0)]).identity_warnings(false).is_empty());
    }

    #[test]
    fn folders_without_a_host_are_named_where_their_loads_come_together() {
        let folder = |name: String| Folder {
            path: (&name).into(),
            top: name.clone(),
            name,
            has_environment: false,
            searched: true,
        };
        let folders: Vec<Folder> = (0..12).map(|number| folder(format!("f{number}"))).collect();
        let key = |model: &str, format: &str| GroupKey::new([model, "cached", "", ""], format, "");
        let mut unnamed = Unnamed::default();
        unnamed.add(&[key("m", "sllm")], 1);
        unnamed.add(&[key("n", "sllm"), key("m", "sllm")], 1);
        unnamed.add(&[key("o", "sllm")], 2);
        assert_eq!(unnamed.note(&folders), None);
        // Another format would be compared with the first.
        unnamed.add(&[key("m", "safetensors")], 0);
        let note = unnamed.note(&folders).unwrap();
        assert!(
            note.contains("2 folders do not say their host") && note.contains("together: f0, f1. If"),
            "{note}"
        );
        (3..12).for_each(|folder| unnamed.add(&[key("m", "sllm")], folder));
        let note = unnamed.note(&folders).unwrap();
        assert!(note.contains("11 folders") && note.contains("f8 and 3 more. If"), "{note}");
    }

    #[test]
    fn verdicts_that_are_left_out_are_told() {
        let warnings = Hosts::of(vec![host("a", &["1", "2"], 3)]).identity_warnings(false);
        assert!(
            warnings[0].starts_with("a: 3 older verdicts of qualify are left out. 2 folders share"),
            "{warnings:?}"
        );
    }
}

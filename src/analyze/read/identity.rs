//! Folders of several machines that may have been taken for one.

use crate::analyze::read::hosts::{Host, Hosts};

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

/// What to say where loads without a host come together from several folders, which are named.
pub fn unnamed_note(folders: &[&str]) -> Option<String> {
    let shown = folders.iter().take(MAX_TOPS).copied().collect::<Vec<_>>().join(", ");
    (folders.len() > 1).then(|| {
        format!(
            "{} folders do not say their host, and their loads are taken together: {shown}{}. If they are of several \
             machines, put an environment.json with {{\"run\": {{\"host\": \"NAME\"}}}} into each",
            folders.len(),
            more(folders.len())
        )
    })
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
    fn folders_without_a_host_are_named() {
        assert_eq!(unnamed_note(&["f0"]), None);
        let folders: Vec<String> = (0..11).map(|number| format!("f{number}")).collect();
        let note = unnamed_note(&folders.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert!(note.contains("11 folders do not say") && note.contains("f7 and 3 more. If"), "{note}");
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

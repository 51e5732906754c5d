//! Folders of several machines that may have been taken for one.

use super::host::{Host, Hosts};

/// In a message.
const MAX_TOPS: usize = 8;

impl Hosts {
    /// Where folders of several machines may have been taken for one: verdicts left out, or, in a fleet whose nodes
    /// mostly have a folder each, a node with several.
    pub fn doubts(&self, by_host: bool) -> Vec<String> {
        let nodes = || self.hosts.iter().filter(|host| host.is_node);
        let usual = by_host && nodes().filter(|host| host.tops.len() > 1).count() * 2 < nodes().count();
        let doubt = |host: &Host| {
            let older = match host.older_verdicts {
                0 => None,
                n => Some(format!("{}: {n} older verdicts of qualify are left out", host.name)),
            };
            let shared = shared_name(host).filter(|_| usual || older.is_some());
            let parts: Vec<String> = older.into_iter().chain(shared).collect();
            (!parts.is_empty()).then(|| parts.join(". "))
        };
        nodes().filter_map(doubt).collect()
    }
}

/// What to do where several folders are of one host and should not be.
pub fn shared_name(host: &Host) -> Option<String> {
    let shown: Vec<&str> = host.tops.iter().take(MAX_TOPS).map(String::as_str).collect();
    let more = host.tops.len().saturating_sub(MAX_TOPS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
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
        let doubts = fleet(&["f/2", "f/3"]).doubts(true);
        let [doubt] = doubts.as_slice() else { panic!("{doubts:?}") };
        assert!(doubt.contains("2 folders share the host name b: f/2, f/3. If"), "{doubt}");
        assert!(fleet(&["f/2"]).doubts(true).is_empty());
        // Warm and cold loads of one host lie in two folders.
        assert!(Hosts::of(vec![host("a", &["warm", "cold"], 0)]).doubts(false).is_empty());
    }

    #[test]
    fn verdicts_that_are_left_out_are_told() {
        let doubts = Hosts::of(vec![host("a", &["1", "2"], 3)]).doubts(false);
        assert!(
            doubts[0].starts_with("a: 3 older verdicts of qualify are left out. 2 folders share"),
            "{doubts:?}"
        );
    }
}

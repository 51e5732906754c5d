//! What several GPUs' links reach at once, against what each reaches alone: where they share a way, the sum is less.

use serde::Serialize;

use crate::node::gpu_links::GpuLinks;
use crate::qualify::measure::{Kind, Measured};
use crate::qualify::schedule::ALL_GPUS;

/// Below this share of the sum something that they share holds them back: memory and processors alone cost less.
const HELD_BACK: f64 = 0.85;

/// Copies to some GPUs at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtOnce {
    /// As the measurement is named: `all GPUs`, `GPU 0 and GPU 1 (root port 0000:15:01.0)`.
    pub of: String,
    pub together_gb_per_s: f64,
    /// The sum of what each reached alone.
    pub alone_gb_per_s: f64,
    /// What they are known to share: each root port above several of them, with these.
    pub root_ports: Vec<String>,
}

/// Some GPUs below one root port, by their places in the list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `GPU 0 and GPU 1 (root port 0000:15:01.0)`
    pub name: String,
    pub members: Vec<usize>,
}

/// Those below one root port, to be measured by themselves. `indices` are NVML's, of the GPUs in their order.
pub fn groups(links: &GpuLinks, names: &[String], indices: &[Option<u32>]) -> Vec<Group> {
    let of = |port: &crate::node::gpu_links::SharedRootPort| {
        let is_below = |i: &usize| indices[*i].is_some_and(|index| port.gpus.contains(&index));
        let members: Vec<usize> = (0..names.len().min(indices.len())).filter(is_below).collect();
        let named: Vec<&str> = members.iter().map(|i| names[*i].as_str()).collect();
        Group { name: format!("{} (root port {})", named.join(" and "), port.port), members }
    };
    links.shared_root_ports.iter().map(of).filter(|group| group.members.len() > 1).collect()
}

impl AtOnce {
    /// Of what was measured of all GPUs, and of each group; none where a part is missing.
    pub fn of(measured: &[Measured], gpus: &[String], groups: &[Group]) -> Vec<AtOnce> {
        let rate = |kind, of: &str| {
            measured.iter().find(|m| m.kind == kind && m.of == of).map(|measured| measured.gb_per_s)
        };
        let new = |kind, of: &str, members: &[usize], root_ports: Vec<String>| {
            let alone: Option<Vec<f64>> =
                members.iter().map(|i| rate(Kind::GpuCopy, gpus.get(*i)?)).collect();
            let (together_gb_per_s, alone_gb_per_s) = (rate(kind, of)?, alone?.iter().sum());
            Some(AtOnce { of: of.to_string(), together_gb_per_s, alone_gb_per_s, root_ports })
        };
        let all: Vec<usize> = (0..gpus.len()).collect();
        let names = |group: &Group| group.name.clone();
        let whole = new(Kind::GpuCopyAll, ALL_GPUS, &all, groups.iter().map(names).collect());
        let parts = groups.iter().filter_map(|group| {
            new(Kind::GpuCopyShared, &group.name, &group.members, vec![group.name.clone()])
        });
        whole.into_iter().chain(parts).collect()
    }

    pub fn is_held_back(&self) -> bool {
        self.together_gb_per_s < HELD_BACK * self.alone_gb_per_s
    }

    /// `all GPUs at once: 57.00 GB/s, 0.52 of the 110.00 that they reach one by one: they share …`
    pub fn in_words(&self) -> String {
        let AtOnce { of, together_gb_per_s, alone_gb_per_s, root_ports } = self;
        let share = together_gb_per_s / alone_gb_per_s;
        let why = match (self.is_held_back(), root_ports.is_empty()) {
            (false, _) => String::new(),
            (true, true) => {
                ": they share a way that is not told here, or the host's memory holds them back".into()
            }
            (true, false) => format!(": what lies above is shared by {}", root_ports.join(", ")),
        };
        format!(
            "{of} at once: {together_gb_per_s:.2} GB/s, {share:.2} of the {alone_gb_per_s:.2} that they reach one by one{why}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::gpu_links::SharedRootPort;
    use crate::qualify::observations::sample::measured;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("GPU {i}")).collect()
    }

    fn links(gpus: &[u32]) -> GpuLinks {
        let shared = SharedRootPort { port: "0000:15:01.0".into(), gpus: gpus.to_vec() };
        GpuLinks { shared_root_ports: vec![shared], ..GpuLinks::default() }
    }

    #[test]
    fn a_shared_root_port_shows_as_a_sum_below_the_parts_and_is_named() {
        let names = names(4);
        let indices: Vec<Option<u32>> = (0..4).map(Some).collect();
        let groups = groups(&links(&[1, 2]), &names, &indices);
        assert_eq!(groups.len(), 1);
        assert_eq!(
            (groups[0].name.as_str(), &groups[0].members),
            ("GPU 1 and GPU 2 (root port 0000:15:01.0)", &vec![1, 2])
        );
        let mut seen: Vec<Measured> =
            names.iter().map(|name| measured(Kind::GpuCopy, name, 50.0, None)).collect();
        seen.push(measured(Kind::GpuCopyAll, ALL_GPUS, 148.0, None));
        seen.push(measured(Kind::GpuCopyShared, &groups[0].name, 52.0, None));
        let found = AtOnce::of(&seen, &names, &groups);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(AtOnce::is_held_back), "{found:?}");
        assert_eq!(
            found[0].in_words(),
            "all GPUs at once: 148.00 GB/s, 0.74 of the 200.00 that they reach one by one: what lies above is shared by \
             GPU 1 and GPU 2 (root port 0000:15:01.0)"
        );
        assert_eq!((found[1].together_gb_per_s, found[1].alone_gb_per_s), (52.0, 100.0));
    }

    #[test]
    fn links_that_are_apart_are_said_without_a_reason_and_unknown_ones_are_not_made_up() {
        let names = names(2);
        let of = |all: f64| {
            let mut seen: Vec<Measured> =
                names.iter().map(|name| measured(Kind::GpuCopy, name, 55.0, None)).collect();
            seen.push(measured(Kind::GpuCopyAll, ALL_GPUS, all, None));
            AtOnce::of(&seen, &names, &[]).remove(0).in_words()
        };
        assert_eq!(of(109.0), "all GPUs at once: 109.00 GB/s, 0.99 of the 110.00 that they reach one by one");
        assert!(of(60.0).contains("not told here"));
        let one = [measured(Kind::GpuCopy, "GPU 0", 55.0, None)];
        assert!(AtOnce::of(&one, &names[..1], &[]).is_empty(), "one GPU has nothing to share");
        assert!(AtOnce::of(&[], &[], &[]).is_empty());
    }

    #[test]
    fn gpus_that_are_not_under_test_make_no_group() {
        assert!(groups(&links(&[0, 1]), &names(1), &[Some(0)]).is_empty());
        assert!(groups(&links(&[0, 1]), &names(2), &[Some(0), None]).is_empty());
    }
}

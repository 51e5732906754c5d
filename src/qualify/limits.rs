//! What PCIe links allow, in GB/s, from generation and width.
//!
//! One link: transfers a second × width × encoding / 8 × [`PROTOCOL`]. Several devices: each its own links, and
//! together no more than the links that they share. Generations 1 and 2 send 8 bits as 10, 3 to 5 send 128 as 130, and
//! from 6 on 236 of a flit's 256 bytes are packets.

use std::collections::BTreeMap;

use crate::node::block::Drive;
use crate::node::nvml::GpuFacts;
use crate::node::pci::{Place, Rate};
use crate::node::source::Source;
use crate::node::virtualization::is_virtual;
use crate::qualify::drives;
use crate::qualify::gpus::QualifiedGpu;

/// The share of a link that payload can take: packets of 256 bytes come with 26 of headers and their acknowledgement.
/// A pinned copy was measured at 0.98 of what this gives for generation 5, width 16.
const PROTOCOL: f64 = 0.9;

/// A rate, and what it was worked out from.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    pub gb_per_s: f64,
    pub words: String,
}

/// A limit, or why none can be told.
pub type Allowed = Result<Limit, String>;

/// One link on a device's way to memory.
#[derive(Debug, Clone, PartialEq)]
struct Hop {
    /// The address below it: its name among links that others use too.
    below: String,
    rate: Rate,
    gb_per_s: f64,
}

/// What one link allows; `None` where generation or width are not told.
fn gb_per_s(rate: Rate) -> Option<f64> {
    let gt_per_s = match rate.generation? {
        1 => 2.5,
        2 => 5.0,
        generation @ 3..=7 => 8.0 * f64::from(1 << (generation - 3)),
        _ => return None,
    };
    let encoding = match rate.generation? {
        1 | 2 => 8.0 / 10.0,
        3..=5 => 128.0 / 130.0,
        _ => 236.0 / 256.0,
    };
    Some(gt_per_s * f64::from(rate.width?) * encoding / 8.0 * PROTOCOL)
}

fn hop(below: &str, rate: Rate) -> Option<Hop> {
    Some(Hop { below: below.to_string(), rate, gb_per_s: gb_per_s(rate)? })
}

/// What the drives of a file system can deliver together.
pub fn storage(source: &Source, drives: &[Drive]) -> Allowed {
    if drives.is_empty() {
        return Err("no drive is seen below this path".into());
    }
    let ways = drives.iter().map(|drive| drive_way(source, drive)).collect::<Result<Vec<_>, _>>()?;
    Ok(together(&ways))
}

/// A drive's links, its own first. What its slot and it can both do counts, not what they run at now.
fn drive_way(source: &Source, drive: &Drive) -> Result<Vec<Hop>, String> {
    let links = drives::links(source, drive)?;
    let hops: Option<Vec<Hop>> = links.iter().map(|link| hop(&link.lower, link.possible())).collect();
    hops.ok_or_else(|| format!("what the links of {} allow is not known", drive.name))
}

/// What may go to each GPU alone, in the order given.
pub fn gpu(source: &Source, gpu: Option<&GpuFacts>) -> Allowed {
    Ok(together(&[gpu_way(source, gpu)?]))
}

/// What may go to all of them at once.
pub fn gpus(source: &Source, gpus: &[Option<&GpuFacts>]) -> Allowed {
    let ways = gpus.iter().map(|gpu| gpu_way(source, *gpu)).collect::<Result<Vec<_>, _>>()?;
    Ok(together(&ways))
}

/// What may be expected of all of them at once, in GB/s; `None` without GPUs. Where no link is told, a usual one.
pub fn gpus_gb_per_s(source: &Source, all: &[QualifiedGpu]) -> Option<f64> {
    const USUAL: f64 = 12.0;
    let facts: Vec<Option<&GpuFacts>> = all.iter().map(|gpu| gpu.facts.as_ref()).collect();
    let allowed = gpus(source, &facts).map_or(USUAL, |limit| limit.gb_per_s);
    (!all.is_empty()).then_some(allowed)
}

/// A GPU's own link as NVML gives it (what GPU and slot can both do), then the links above.
fn gpu_way(source: &Source, gpu: Option<&GpuFacts>) -> Result<Vec<Hop>, String> {
    let gpu = gpu.ok_or("NVML does not tell this GPU's link")?;
    let own = Rate { generation: gpu.link_generation_max, width: gpu.link_width_max };
    let own = hop(&gpu.pci_address, own).ok_or("NVML does not tell this GPU's link")?;
    let mut hops = vec![own];
    if let (false, Some(place)) = (is_virtual(source), Place::of_address(source, &gpu.pci_address)) {
        // A link that is not told holds nothing back here.
        let above = place.links(source);
        hops.extend(above.iter().skip(1).filter_map(|link| hop(&link.lower, link.possible())));
    }
    Ok(hops)
}

/// What flows over all these ways at once, and from what links.
fn together(ways: &[Vec<Hop>]) -> Limit {
    let mut own: BTreeMap<String, usize> = BTreeMap::new();
    for way in ways {
        *own.entry(way.first().map_or(String::new(), |hop| hop.rate.to_string())).or_default() += 1;
    }
    let counted = |(rate, n): (&String, &usize)| match n {
        1 => format!("PCIe {rate}"),
        n => format!("{n} of PCIe {rate}"),
    };
    let mut words = own.iter().map(counted).collect::<Vec<_>>().join(", ");
    let from_above: Vec<Vec<&Hop>> = ways.iter().map(|way| way.iter().rev().collect()).collect();
    let gb_per_s = flow(&from_above);
    let alone: f64 = ways.iter().filter_map(|way| way.first()).map(|hop| hop.gb_per_s).sum();
    if gb_per_s < alone * 0.999 {
        words.push_str(", held back by the links above");
    }
    Limit { gb_per_s, words }
}

/// The links form a tree: what passes a link is at most what it allows and what those below it bring.
fn flow(from_above: &[Vec<&Hop>]) -> f64 {
    let mut below: BTreeMap<&str, Vec<Vec<&Hop>>> = BTreeMap::new();
    for way in from_above {
        if let Some(hop) = way.first() {
            below.entry(&hop.below).or_default().push(way.clone());
        }
    }
    let through = |ways: &Vec<Vec<&Hop>>| {
        let most = ways[0][0].gb_per_s;
        let rest: Vec<Vec<&Hop>> =
            ways.iter().map(|way| way[1..].to_vec()).filter(|way| !way.is_empty()).collect();
        if rest.is_empty() { most } else { most.min(flow(&rest)) }
    };
    below.values().map(through).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{nvme_drives, tree};

    fn rate(generation: u32, width: u32) -> Rate {
        Rate { generation: Some(generation), width: Some(width) }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.01
    }

    #[test]
    fn one_link() {
        let allowed = |generation, width| gb_per_s(rate(generation, width)).unwrap();
        assert!(near(allowed(1, 1), 2.5 * 0.8 / 8.0 * 0.9));
        assert!(near(allowed(2, 1), 5.0 * 0.8 / 8.0 * 0.9));
        assert!(near(allowed(3, 4), 3.54));
        assert!(near(allowed(4, 4), 7.09));
        assert!(near(allowed(5, 16), 56.71));
        assert!(near(allowed(6, 16), 106.2));
        assert_eq!(gb_per_s(Rate { generation: None, width: Some(4) }), None);
        assert_eq!(gb_per_s(rate(9, 4)), None);
    }

    #[test]
    fn a_shared_link_holds_all_back() {
        let way = |name: &str, generation, width, up: u32| {
            vec![hop(name, rate(generation, width)).unwrap(), hop("switch", rate(4, up)).unwrap()]
        };
        let wide = together(&[way("a", 4, 4, 16), way("b", 4, 4, 16)]);
        assert!(near(wide.gb_per_s, 14.18));
        assert_eq!(wide.words, "2 of PCIe gen 4 x4");
        let narrow = together(&[way("a", 4, 4, 4), way("b", 3, 4, 4)]);
        assert!(near(narrow.gb_per_s, 7.09));
        assert_eq!(narrow.words, "PCIe gen 3 x4, PCIe gen 4 x4, held back by the links above");
    }

    #[test]
    fn drives_that_lost_lanes_are_held_to_what_they_could() {
        let raid = tree("raid0-no-p2pdma");
        let limit = storage(&raid.source, &nvme_drives(&raid.source)).unwrap();
        assert!(near(limit.gb_per_s, 4.0 * 7.09), "{limit:?}");
        let facts = crate::node::nvml::gpus(&raid.source).unwrap();
        let one = gpu(&raid.source, facts.first()).unwrap();
        assert!(near(one.gb_per_s, 28.36), "the slot is of generation 4: {one:?}");
    }

    #[test]
    fn what_has_no_link_says_so() {
        let tree = tree("laptop");
        let disk = Drive { name: "vda".into(), device: "/sys/devices/virtual/block/vda".into() };
        assert!(storage(&tree.source, &[disk]).unwrap_err().contains("vda is no NVMe drive"));
        assert!(storage(&tree.source, &[]).unwrap_err().contains("no drive"));
        assert!(gpu(&tree.source, None).unwrap_err().contains("NVML"));
    }
}

//! What links GPUs: peer access, NVLink, and what they share of their ways to the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::node::nvml::{GpuFacts, NvLinks};
use crate::node::pci::Place;
use crate::node::source::Source;
use crate::node::virtualization::is_virtual;

/// What the driver says of one GPU's access to another's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFact {
    pub from_uuid: String,
    pub to_uuid: String,
    pub access: bool,
    /// Over NVLink, but not over PCIe.
    pub native_atomics: Option<bool>,
    /// The driver's own: the lower, the better.
    pub performance_rank: Option<i32>,
}

/// The GPUs of a machine, and what lies between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GpuLinks {
    pub gpus: Vec<LinkedGpu>,
    /// Each pair in both directions.
    pub pairs: Vec<GpuPair>,
    /// Root ports above more than one of them.
    pub shared_root_ports: Vec<SharedRootPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkedGpu {
    /// As NVML counts.
    pub index: u32,
    pub uuid: String,
    pub pci_address: String,
    /// `None` where sysfs shows none above it, or a virtual machine's, which are made up.
    pub root_port: Option<String>,
}

/// From one GPU to another, by NVML's indices. What nobody tells is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuPair {
    pub from: u32,
    pub to: u32,
    pub peer_access: Option<bool>,
    pub native_atomics: Option<bool>,
    pub performance_rank: Option<i32>,
    /// How many links join them, by themselves or by way of a switch.
    pub nvlinks: Option<u32>,
}

/// What lies above it is shared by these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedRootPort {
    pub port: String,
    pub gpus: Vec<u32>,
}

impl GpuLinks {
    /// Of these GPUs, from what NVML says of their NVLinks (`None`: nothing), the driver of peers, and sysfs of bridges.
    pub fn new(
        source: &Source,
        gpus: &[GpuFacts],
        nvlinks: Option<&[NvLinks]>,
        peers: &[PeerFact],
    ) -> GpuLinks {
        let linked: Vec<LinkedGpu> = gpus.iter().map(|gpu| linked(source, gpu)).collect();
        let others = |from| linked.iter().filter(move |to: &&LinkedGpu| !std::ptr::eq(from, *to));
        let pairs = linked.iter().flat_map(|from| others(from).map(move |to| (from, to)));
        let pairs = pairs.map(|(from, to)| pair(from, to, &linked, nvlinks, peers)).collect();
        let mut below: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for gpu in &linked {
            if let Some(port) = &gpu.root_port {
                below.entry(port).or_default().push(gpu.index);
            }
        }
        let shared = below.into_iter().filter(|(_, gpus)| gpus.len() > 1);
        let shared_root_ports =
            shared.map(|(port, gpus)| SharedRootPort { port: port.to_string(), gpus }).collect();
        GpuLinks { gpus: linked, pairs, shared_root_ports }
    }

    pub fn pair(&self, from: u32, to: u32) -> Option<&GpuPair> {
        self.pairs.iter().find(|pair| (pair.from, pair.to) == (from, to))
    }
}

impl GpuPair {
    pub fn is_by_nvlink(&self) -> bool {
        self.peer_access == Some(true) && self.nvlinks.is_some_and(|links| links > 0)
    }

    /// `NV18`, `P2P`, `host`, or `?` where nobody tells.
    pub fn short(&self) -> String {
        match (self.peer_access, self.nvlinks) {
            (Some(false), _) => "host".into(),
            (_, Some(links @ 1..)) => format!("NV{links}"),
            (Some(true), _) => "P2P".into(),
            (None, _) => "?".into(),
        }
    }
}

/// What [`GpuPair::short`] says, in words.
pub const LEGEND: &str =
    "NV18: 18 NVLinks; P2P: peer access over PCIe; host: by way of host memory; ?: not told";

/// The PCIe root port above a device; `None` where sysfs shows none, or a virtual machine's, which are made up.
pub fn root_port(source: &Source, pci_address: &str) -> Option<String> {
    let place = Place::of_address(source, pci_address).filter(|_| !is_virtual(source))?;
    place.functions.first().filter(|_| place.functions.len() > 1).cloned()
}

fn linked(source: &Source, gpu: &GpuFacts) -> LinkedGpu {
    LinkedGpu {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        pci_address: gpu.pci_address.clone(),
        root_port: root_port(source, &gpu.pci_address),
    }
}

fn pair(
    from: &LinkedGpu,
    to: &LinkedGpu,
    all: &[LinkedGpu],
    nvlinks: Option<&[NvLinks]>,
    peers: &[PeerFact],
) -> GpuPair {
    let peer = peers.iter().find(|peer| peer.from_uuid == from.uuid && peer.to_uuid == to.uuid);
    let native_atomics = peer.and_then(|peer| peer.native_atomics);
    GpuPair {
        from: from.index,
        to: to.index,
        peer_access: peer.map(|peer| peer.access),
        native_atomics,
        performance_rank: peer.and_then(|peer| peer.performance_rank),
        nvlinks: nvlinks.and_then(|told| joined(from, to, all, told, native_atomics)),
    }
}

/// Links that end at the other GPU count as they are. Those that end at no GPU end at a switch, which joins all that hang
/// on it, unless the driver denies what NVLink brings with it.
fn joined(
    from: &LinkedGpu,
    to: &LinkedGpu,
    all: &[LinkedGpu],
    told: &[NvLinks],
    native_atomics: Option<bool>,
) -> Option<u32> {
    let ends =
        |gpu: &LinkedGpu| told.iter().find(|links| links.uuid == gpu.uuid).map(|links| &links.far_ends);
    let (from_ends, to_ends) = (ends(from)?, ends(to)?);
    let direct = from_ends.iter().filter(|end| **end == to.pci_address).count();
    let to_switch =
        |ends: &Vec<String>| ends.iter().filter(|end| all.iter().all(|gpu| gpu.pci_address != **end)).count();
    let switched = match native_atomics {
        Some(false) => 0,
        _ => to_switch(from_ends).min(to_switch(to_ends)),
    };
    u32::try_from(direct + switched).ok()
}

/// Made-up links for tests of what is made of them.
#[cfg(test)]
pub mod sample {
    use super::*;
    use crate::node::test_tree::{Tree, tree};

    /// Of two GPUs of a recorded machine: each end of so many links.
    pub fn nvlinks(gpus: &[GpuFacts], far_ends: [&[&str]; 2]) -> Vec<NvLinks> {
        let of = |(gpu, ends): (&GpuFacts, &[&str])| NvLinks {
            uuid: gpu.uuid.clone(),
            far_ends: ends.iter().map(|end| end.to_string()).collect(),
        };
        gpus.iter().zip(far_ends).map(of).collect()
    }

    pub fn peers(gpus: &[GpuFacts], access: bool, native_atomics: bool) -> Vec<PeerFact> {
        let fact = |from: &GpuFacts, to: &GpuFacts| PeerFact {
            from_uuid: from.uuid.clone(),
            to_uuid: to.uuid.clone(),
            access,
            native_atomics: Some(native_atomics),
            performance_rank: Some(0),
        };
        vec![fact(&gpus[0], &gpus[1]), fact(&gpus[1], &gpus[0])]
    }

    pub fn machine() -> (Tree, Vec<GpuFacts>) {
        let tree = tree("bare-metal-gds");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        (tree, gpus)
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{machine, nvlinks, peers};
    use super::*;

    #[test]
    fn nvlinks_are_counted_to_the_other_gpu_or_by_way_of_a_switch() {
        let (tree, gpus) = machine();
        let (a, b) = (gpus[0].pci_address.as_str(), gpus[1].pci_address.as_str());
        let switch = "0000:c1:00.0";
        let links = |far_ends: [&[&str]; 2], native: bool| {
            let told = nvlinks(&gpus, far_ends);
            let links = GpuLinks::new(&tree.source, &gpus, Some(&told), &peers(&gpus, true, native));
            links.pair(0, 1).unwrap().clone()
        };
        let direct = links([&[b, b, b], &[a, a, a]], true);
        assert_eq!((direct.short().as_str(), direct.is_by_nvlink()), ("NV3", true));
        let switched = links([&[switch; 18], &[switch; 18]], true);
        assert_eq!(switched.short(), "NV18");
        let denied = links([&[switch; 18], &[switch; 18]], false);
        assert_eq!((denied.short().as_str(), denied.is_by_nvlink()), ("P2P", false));
        assert_eq!(links([&[], &[]], false).short(), "P2P");
    }

    #[test]
    fn what_nobody_tells_is_not_made_up() {
        let (tree, gpus) = machine();
        let links = GpuLinks::new(&tree.source, &gpus, None, &[]);
        let pair = links.pair(1, 0).unwrap();
        assert_eq!((pair.peer_access, pair.nvlinks, pair.short().as_str()), (None, None, "?"));
        assert_eq!(links.pairs.len(), 2);
        let denied = GpuLinks::new(&tree.source, &gpus, None, &peers(&gpus, false, false));
        assert_eq!(denied.pair(0, 1).unwrap().short(), "host");
        let none = GpuLinks::new(&tree.source, &[], None, &[]);
        assert_eq!(none, GpuLinks::default());
        assert!(GpuLinks::new(&tree.source, &gpus[..1], None, &[]).pairs.is_empty());
    }

    #[test]
    fn root_ports_above_several_gpus_are_named() {
        let (tree, mut gpus) = machine();
        let links = |gpus: &[GpuFacts]| {
            let ends: Vec<&str> = vec!["0000:c1:00.0"; 4];
            let told = nvlinks(gpus, [&ends, &ends]);
            GpuLinks::new(&tree.source, gpus, Some(&told), &peers(gpus, true, true))
        };
        let apart = links(&gpus);
        assert!(apart.gpus.iter().all(|gpu| gpu.root_port.is_some()), "{apart:?}");
        assert!(apart.shared_root_ports.is_empty());
        // A drive's place below the first GPU's switch stands for a second GPU there.
        gpus[1].pci_address = "0000:18:00.0".into();
        let shared = links(&gpus);
        assert_eq!(shared.shared_root_ports.len(), 1, "{shared:?}");
        assert_eq!(shared.shared_root_ports[0].gpus, [0, 1]);
    }
}

//! How far a GPU is from a drive: what lies between them decides whether bytes can pass directly, and how fast.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::hardware::gpu;
use crate::node::block::Drive;
use crate::node::nvme;
use crate::node::nvml::GpuFacts;
use crate::node::pci::Place;
use crate::node::source::Source;
use crate::node::topology::{Distance, distance};

pub fn check(source: &Source, gpu: &GpuFacts, drive: &Drive) -> Check {
    let subject = format!("{} and {}", gpu::subject(gpu), drive.name);
    let at = "/sys/devices/pci*, numa_node, /sys/devices/system/node/node*/distance";
    let check = |status, value: String| Check::new(CheckId::PairDistance, &subject, status, value, at);
    let Some((_, drive_place)) = nvme::controller_of(source, drive) else {
        return check(Status::Unknown, format!("{} has no place on PCIe", drive.name))
            .why("not an NVMe drive on PCIe: its bytes come through the host in any case");
    };
    let Some(gpu_place) = Place::of_address(source, &gpu.pci_address) else {
        return check(Status::Unknown, format!("{} is not in /sys", gpu.pci_address));
    };
    match distance(source, &gpu_place, &drive_place) {
        Distance::Switch(at) => check(Status::Pass, format!("same PCIe switch ({at})"))
            .why("bytes can pass without touching the CPU"),
        Distance::RootPort(at) => check(Status::Pass, format!("same root port ({at})")),
        Distance::HostBridge(host) => check(Status::Pass, format!("same root complex ({host})"))
            .why("bytes pass through the CPU's root complex"),
        Distance::Node(node) => check(Status::Pass, format!("same node {node}, other host bridge"))
            .why("bytes pass through the CPU, from one host bridge to another"),
        Distance::Nodes(a, b, far) => {
            let far = far.map_or(String::new(), |far| format!(", distance {far}"));
            check(Status::Warn, format!("GPU on node {a}, drive on node {b}{far}"))
                .why("every byte crosses the link between sockets; direct reads are slow there or not made")
                .remedy("keep this GPU's models on a drive of its own node")
        }
        Distance::Unknown => check(Status::Unknown, "different host bridges, node not told".into())
            .why("the firmware gives no NUMA node for one of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{nvme_drives, tree};

    #[test]
    fn pairs_of_a_machine_with_two_sockets() {
        let tree = tree("bare-metal-gds");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        let pairs = crate::doctor::hardware::pairs(&tree.source, &gpus, &nvme_drives(&tree.source));
        let values: Vec<(Status, &str)> =
            pairs.iter().map(|check| (check.status, check.value.as_str())).collect();
        assert_eq!(values.len(), 8);
        assert_eq!(values[0], (Status::Pass, "same PCIe switch (0000:16:00.0)"));
        assert_eq!(values[2], (Status::Warn, "GPU on node 0, drive on node 1, distance 21"));
        assert_eq!(values[7].0, Status::Pass);
    }

    #[test]
    fn pairs_below_one_host_bridge_and_across_sockets() {
        let near = tree("p2pdma");
        let gpus = crate::node::nvml::gpus(&near.source).unwrap();
        let pair = check(&near.source, &gpus[0], &nvme_drives(&near.source)[0]);
        assert_eq!(pair.value, "same root complex (pci0000:00)");
        let far = tree("raid0-no-p2pdma");
        let gpus = crate::node::nvml::gpus(&far.source).unwrap();
        assert_eq!(check(&far.source, &gpus[0], &nvme_drives(&far.source)[0]).status, Status::Warn);
        let zram = Drive { name: "zram0".into(), device: "/sys/devices/virtual/block/zram0".into() };
        let none = check(&far.source, &gpus[0], &zram);
        assert_eq!((none.status, none.value.as_str()), (Status::Unknown, "zram0 has no place on PCIe"));
    }
}

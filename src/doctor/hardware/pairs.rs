//! How far a GPU is from a drive: what lies between them decides whether bytes can pass directly, and how fast.

use crate::doctor::check::{Check, Status};
use crate::doctor::hardware::drives;
use crate::doctor::hardware::gpu;
use crate::doctor::hardware::pci;
use crate::doctor::hardware::pci::Place;
use crate::node::block::Drive;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;

/// The nearest thing that both hang below.
#[derive(Debug, PartialEq, Eq)]
enum Distance {
    Switch(String),
    RootPort(String),
    HostBridge(String),
    Node(u32),
    /// Nodes and their distance, 10 being none, where the firmware tells it.
    Nodes(u32, u32, Option<u32>),
    Unknown,
}

pub fn check(source: &Source, gpu: &GpuFacts, drive: &Drive) -> Check {
    let subject = format!("{} and {}", gpu::subject(gpu), drive.name);
    let at = "/sys/devices/pci*, numa_node, /sys/devices/system/node/node*/distance";
    let check = |status, value: String| Check::new("pair.distance", &subject, status, value, at);
    let Some((_, drive_place)) = drives::controller_of(source, drive) else {
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

fn distance(source: &Source, gpu: &Place, drive: &Place) -> Distance {
    let shared = gpu.shared(drive);
    match shared {
        [root_port] => return Distance::RootPort(root_port.clone()),
        [.., bridge] => return Distance::Switch(bridge.clone()),
        [] => {}
    }
    if gpu.host == drive.host {
        let name = gpu.host.rsplit('/').next().unwrap_or(&gpu.host);
        return Distance::HostBridge(name.to_string());
    }
    match (pci::numa_node(source, gpu.address()), pci::numa_node(source, drive.address())) {
        (Some(a), Some(b)) if a == b => Distance::Node(a),
        (Some(a), Some(b)) => Distance::Nodes(a, b, node_distance(source, a, b)),
        _ if source.is_there("/sys/devices/system/node/node1") == Ok(false) => Distance::Node(0),
        _ => Distance::Unknown,
    }
}

/// A node's `distance` has one column for each node that is there; numbers may be left out.
fn node_distance(source: &Source, from: u32, to: u32) -> Option<u32> {
    let names = source.list("/sys/devices/system/node").ok()?;
    let mut nodes: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect();
    nodes.sort_unstable();
    let column = nodes.iter().position(|node| *node == to)?;
    let row = source.text(&format!("/sys/devices/system/node/node{from}/distance")).ok()?;
    row.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{nvme_drives, tree, tree_of};

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

    #[test]
    fn distances_without_switches_or_nodes() {
        let empty = tree_of("+++ /sys\n");
        let place = |path: &str| Place::of_path(path).unwrap();
        let a = place("/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0");
        let b = place("/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1");
        let c = place("/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0");
        assert_eq!(distance(&empty.source, &a, &b), Distance::RootPort("0000:00:01.0".into()));
        assert_eq!(distance(&empty.source, &a, &c), Distance::Node(0), "one node only");
        let mute = tree_of("+++ /sys/devices/system/node/node1\n");
        assert_eq!(distance(&mute.source, &a, &c), Distance::Unknown);
    }

    #[test]
    fn columns_follow_the_nodes_that_are_there() {
        let sparse = tree_of(
            "=== /sys/devices/system/node/node0/distance\n10 32\n=== /sys/devices/system/node/node8/distance\n32 10\n",
        );
        assert_eq!(node_distance(&sparse.source, 0, 8), Some(32));
        assert_eq!(node_distance(&sparse.source, 0, 1), None);
    }
}

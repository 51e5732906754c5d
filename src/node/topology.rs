//! How far two devices are from each other in the PCIe tree and over NUMA nodes.

use crate::node::pci;
use crate::node::pci::Place;
use crate::node::source::Source;

/// The nearest thing that both hang below.
#[derive(Debug, PartialEq, Eq)]
pub enum Distance {
    Switch(String),
    RootPort(String),
    HostBridge(String),
    Node(u32),
    /// Nodes and their distance, 10 being none, where the firmware tells it.
    Nodes(u32, u32, Option<u32>),
    Unknown,
}

pub fn distance(source: &Source, gpu: &Place, drive: &Place) -> Distance {
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
    use crate::node::test_tree::tree_of;

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

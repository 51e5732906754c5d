//! Whether this is a container or a virtual machine: both show only a part of the truth.

use serde::{Deserialize, Serialize};

use crate::node::cpu;
use crate::node::source::{Source, Unread};

/// What only this process's environment tells. Recorded as the fact `environment`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Environment {
    kubernetes: bool,
}

/// Names in DMI that only virtual machines have; real hardware of the same vendors has others.
const VIRTUAL_NAMES: [&str; 12] = [
    "QEMU",
    "KVM",
    "VMware",
    "VirtualBox",
    "Virtual Machine",
    "Google Compute Engine",
    "Amazon EC2",
    "Xen",
    "Bochs",
    "OpenStack",
    "Parallels",
    "DigitalOcean",
];

/// What runs below this system.
/// A name may be empty.
#[derive(Debug, PartialEq, Eq)]
pub enum Below {
    Hardware(String),
    Hypervisor(String),
    Unknown,
}

pub fn below(source: &Source) -> Below {
    let dmi = |field: &str| source.text(&format!("/sys/class/dmi/id/{field}")).unwrap_or_default();
    let name = format!("{} {}", dmi("sys_vendor"), dmi("product_name")).trim().to_string();
    // A bare-metal instance of this cloud has the vendor's name, too, but no hypervisor flag.
    let metal = name.ends_with(".metal");
    let xen = source.text("/sys/hypervisor/type").is_ok_and(|kind| !kind.is_empty());
    let named = !metal && VIRTUAL_NAMES.iter().any(|virtual_name| name.contains(virtual_name));
    match cpu::is_virtual(source) {
        Some(true) => Below::Hypervisor(name),
        _ if xen || named => Below::Hypervisor(name),
        Some(false) => Below::Hardware(name),
        None if !name.is_empty() => Below::Hardware(name),
        None => Below::Unknown,
    }
}

/// Whether a hypervisor is known to run below.
pub fn is_virtual(source: &Source) -> bool {
    matches!(below(source), Below::Hypervisor(_))
}

/// What kind of container this is, in lower case; `None` is none.
pub fn container_kind(source: &Source) -> Result<Option<&'static str>, Unread> {
    let environment =
        || Ok(Environment { kubernetes: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() });
    if source.fact("environment", environment).unwrap_or_default().kubernetes {
        return Ok(Some("kubernetes"));
    }
    if source.is_there("/.dockerenv")? {
        return Ok(Some("docker"));
    }
    if source.is_there("/run/.containerenv")? {
        return Ok(Some("podman"));
    }
    let groups = source.text("/proc/self/cgroup").unwrap_or_default();
    let named = [
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("containerd", "containerd"),
        ("lxc", "lxc"),
    ];
    Ok(named.iter().find(|(part, _)| groups.contains(part)).map(|(_, kind)| *kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{tree, tree_of};

    #[test]
    fn trees_tell_what_they_are() {
        let metal = tree("bare-metal-gds");
        assert!(matches!(below(&metal.source), Below::Hardware(_)));
        assert_eq!(container_kind(&metal.source), Ok(None));
        let container = tree("container-no-udev");
        assert_eq!(container_kind(&container.source), Ok(Some("kubernetes")));
    }

    #[test]
    fn virtual_machines_are_told_by_flag_or_name() {
        let flag = tree_of("=== /proc/cpuinfo\nprocessor : 0\nflags : fpu vme hypervisor sse\n");
        assert_eq!(below(&flag.source), Below::Hypervisor(String::new()));
        let name = tree_of(
            "=== /sys/class/dmi/id/sys_vendor\nQEMU\n=== /sys/class/dmi/id/product_name\nStandard PC\n",
        );
        assert_eq!(below(&name.source), Below::Hypervisor("QEMU Standard PC".into()));
        let metal = "=== /proc/cpuinfo\nflags : fpu\n=== /sys/class/dmi/id/sys_vendor\nAmazon EC2\n\
                     === /sys/class/dmi/id/product_name\np4d.metal\n";
        assert_eq!(below(&tree_of(metal).source), Below::Hardware("Amazon EC2 p4d.metal".into()));
        assert_eq!(below(&tree_of("+++ /proc\n").source), Below::Unknown);
    }

    #[test]
    fn containers_are_told_by_their_cgroup() {
        let lxc = tree_of("=== /proc/self/cgroup\n0::/lxc/web/init.scope\n");
        assert_eq!(container_kind(&lxc.source), Ok(Some("lxc")));
        let session = tree_of("=== /proc/self/cgroup\n0::/user.slice/user-1000.slice\n");
        assert_eq!(container_kind(&session.source), Ok(None));
    }
}

//! Whether this is a container or a virtual machine: both show only a part of the truth, and doctor says so.

use serde::{Deserialize, Serialize};

use crate::doctor::check::{Check, Status};
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
#[derive(Debug, PartialEq, Eq)]
enum Below {
    Hardware(String),
    Hypervisor(String),
    Unknown,
}

pub fn checks(source: &Source) -> [Check; 2] {
    [container(source), machine(source)]
}

/// Whether a hypervisor is known to run below.
pub fn is_virtual(source: &Source) -> bool {
    matches!(below(source), Below::Hypervisor(_))
}

fn machine(source: &Source) -> Check {
    let at = "/proc/cpuinfo flags, /sys/class/dmi/id, /sys/hypervisor/type";
    let check = |status, value: &str| Check::new("machine.vm", "this machine", status, value, at);
    match below(source) {
        Below::Hardware(name) => check(Status::Pass, &format!("bare metal{}", with_name(&name))),
        Below::Hypervisor(name) => check(Status::Warn, &format!("virtual machine{}", with_name(&name)))
            .why(
                "bridges, NUMA, IOMMU and drives are the hypervisor's picture; neighbours share the hardware",
            )
            .remedy("run doctor on the host for the whole story"),
        Below::Unknown => check(Status::Unknown, "neither CPU flags nor DMI tell"),
    }
}

fn with_name(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" ({name})") }
}

fn below(source: &Source) -> Below {
    let dmi = |field: &str| source.text(&format!("/sys/class/dmi/id/{field}")).unwrap_or_default();
    let name = format!("{} {}", dmi("sys_vendor"), dmi("product_name")).trim().to_string();
    // A bare-metal instance of this cloud has the vendor's name, too, but no hypervisor flag.
    let metal = name.ends_with(".metal");
    let xen = source.text("/sys/hypervisor/type").is_ok_and(|kind| !kind.is_empty());
    let flags = source.text("/proc/cpuinfo").ok().and_then(|text| cpu_flags(&text).map(str::to_string));
    let flagged = flags.as_ref().map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let named = !metal && VIRTUAL_NAMES.iter().any(|virtual_name| name.contains(virtual_name));
    match flagged {
        Some(true) => Below::Hypervisor(name),
        _ if xen || named => Below::Hypervisor(name),
        Some(false) => Below::Hardware(name),
        None if !name.is_empty() => Below::Hardware(name),
        None => Below::Unknown,
    }
}

/// The flags of the first CPU; ARM has none of this name.
fn cpu_flags(cpuinfo: &str) -> Option<&str> {
    let line =
        cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == "flags"))?;
    Some(line.split_once(':')?.1.trim())
}

fn container(source: &Source) -> Check {
    let at = "/.dockerenv, /run/.containerenv, /proc/self/cgroup, KUBERNETES_SERVICE_HOST";
    let check = |status, value: &str| Check::new("machine.container", "this machine", status, value, at);
    match container_kind(source) {
        Err(why) => check(Status::Unknown, &why.to_string()).why("whether this is a container can't be told"),
        Ok(None) => check(Status::Pass, "no"),
        Ok(Some(kind)) => check(Status::Pass, kind).why(
            "what is not mounted in stays unseen: GDS wants /run/udev and /proc/modules, doctor all of /sys",
        ),
    }
}

fn container_kind(source: &Source) -> Result<Option<&'static str>, Unread> {
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
        assert_eq!(checks(&container.source)[0].value, "kubernetes");
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

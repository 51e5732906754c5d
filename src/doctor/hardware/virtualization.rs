//! Whether this is a container or a virtual machine: both show only a part of the truth, and doctor says so.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::source::Source;
use crate::node::virtualization::{Below, below, container_kind};

pub fn checks(source: &Source) -> [Check; 2] {
    [container(source), machine(source)]
}

fn machine(source: &Source) -> Check {
    let at = "/proc/cpuinfo flags, /sys/class/dmi/id, /sys/hypervisor/type";
    let check = |status, value: &str| Check::new(CheckId::VirtualMachine, "this machine", status, value, at);
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

fn container(source: &Source) -> Check {
    let at = "/.dockerenv, /run/.containerenv, /proc/self/cgroup, KUBERNETES_SERVICE_HOST";
    let check = |status, value: &str| Check::new(CheckId::Container, "this machine", status, value, at);
    match container_kind(source) {
        Err(why) => check(Status::Unknown, &why.to_string()).why("whether this is a container can't be told"),
        Ok(None) => check(Status::Pass, "no"),
        Ok(Some(kind)) => check(Status::Pass, kind).why(
            "what is not mounted in stays unseen: GDS wants /run/udev and /proc/modules, doctor all of /sys",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree;

    #[test]
    fn a_container_is_told_by_its_kind() {
        assert_eq!(checks(&tree("container-no-udev").source)[0].value, "kubernetes");
    }
}

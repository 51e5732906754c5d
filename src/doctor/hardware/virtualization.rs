//! Whether this is a container or a virtual machine: both show only a part of the truth, and doctor says so.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::balloon::{Balloon, DEVICES, ORDER, balloon};
use crate::node::source::Source;
use crate::node::virtualization::{Below, below, container_kind};

pub fn checks(source: &Source) -> [Check; 3] {
    [container(source), machine(source), free_page_reporting(source)]
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

fn free_page_reporting(source: &Source) -> Check {
    let at = format!("{DEVICES}/*/features (bit 5 of device 0x0005), {ORDER}");
    let check =
        |status, value: &str| Check::new(CheckId::FreePageReporting, "this machine", status, value, &at);
    match balloon(source) {
        Err(why) => check(Status::Unknown, &why.to_string())
            .why("whether the host takes back free memory can't be told"),
        Ok(None) => check(Status::Pass, "no virtio balloon"),
        Ok(Some(Balloon { free_page_reporting: false, .. })) => check(Status::Pass, "off"),
        Ok(Some(Balloon { page_reporting_order, .. })) => {
            let order = page_reporting_order.map(|order| format!(", order {order}")).unwrap_or_default();
            check(Status::Warn, &format!("on{order}"))
                .why("the host takes back free memory within seconds: a load after an idle time waits for each page")
                .remedy("turn free page reporting off on the host; till then, load again before the memory was idle")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{tree, tree_of};

    #[test]
    fn a_host_that_takes_back_free_memory_is_a_warning() {
        let of = |text: &str| free_page_reporting(&tree_of(text).source);
        let device = |features: &str| {
            format!(
                "=== {DEVICES}/virtio0/device\n0x0005\n=== {DEVICES}/virtio0/features\n{features}\n=== {ORDER}\n9\n"
            )
        };
        let on = of(&device("01100101"));
        assert_eq!((on.status, on.value.as_str()), (Status::Warn, "on, order 9"));
        assert!(on.why.is_some() && on.remedy.is_some());
        assert_eq!(of(&device("01100001")).value, "off");
        assert_eq!(of("+++ /sys\n").status, Status::Pass);
        assert_eq!(of(&device("").replace("0x0005", "five")).status, Status::Unknown);
    }

    #[test]
    fn a_container_is_told_by_its_kind() {
        assert_eq!(checks(&tree("container-no-udev").source)[0].value, "kubernetes");
    }
}

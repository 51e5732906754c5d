//! ACS of the switches that a GPU and a drive share, judged.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::acs;
use crate::node::acs::Acs;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;
use crate::node::virtualization;

pub fn check(source: &Source, gpus: &[GpuFacts]) -> Check {
    let at = "/sys/bus/pci/devices/*/config, ACS control";
    let check = |status, value: String| Check::new(CheckId::Acs, "this machine", status, value, at);
    let between = acs::bridges_between(source, gpus);
    if between.is_empty() && virtualization::is_virtual(source) {
        return check(Status::Unknown, "no switch in this virtual machine".into())
            .why("the host's switches, and what they redirect, only the host can tell");
    }
    if between.is_empty() {
        return check(Status::Pass, "no GPU shares a PCIe switch with a drive".into())
            .why("ACS in switches changes nothing where bytes pass the root complex anyhow");
    }
    let bridges = acs::read(source, &between);
    let of = |wanted: &dyn Fn(&Acs) -> bool| -> Vec<&str> {
        bridges.iter().filter(|b| wanted(&b.acs)).map(|b| b.address.as_str()).collect()
    };
    let redirecting = of(&Acs::redirects);
    let told = of(&|acs| !matches!(acs, Acs::Unreadable)).len();
    if !redirecting.is_empty() {
        return check(Status::Warn, format!("redirects at {}", redirecting.join(", ")))
            .why("these switch ports send bytes between drive and GPU up to the root complex")
            .remedy(format!(
                "turn ACS off in the firmware, or for this boot: setpci -s {} ECAP_ACS+6.w=0000 (and the others); \
                 not where virtual machines share the switch",
                redirecting[0]
            ));
    }
    if told < between.len() {
        return check(
            Status::Unknown,
            format!("{} of {} bridges not readable", between.len() - told, between.len()),
        )
        .remedy("run as root (CAP_SYS_ADMIN): the kernel hides this part of config space from others");
    }
    check(Status::Pass, format!("no redirect at {}", between.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{tree, tree_with};

    #[test]
    fn no_redirect_between_a_gpu_and_its_drives_passes() {
        let tree = tree("bare-metal-gds");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        assert_eq!(check(&tree.source, &gpus).status, Status::Pass);
    }

    #[test]
    fn redirects_and_what_cannot_be_read_are_told() {
        let metal = tree_with(
            "bare-metal-gds",
            "=== /sllm-gds/acs.json\n[{\"address\": \"0000:16:01.0\", \"acs\": {\"control\": 29}}]\n",
        );
        let gpus = crate::node::nvml::gpus(&metal.source).unwrap();
        let redirected = check(&metal.source, &gpus);
        assert_eq!(
            (redirected.status, redirected.value.as_str()),
            (Status::Warn, "redirects at 0000:16:01.0")
        );
        let denied = tree_with("bare-metal-gds", "=== /sllm-gds/acs.json\n[]\n");
        assert_eq!(check(&denied.source, &gpus).status, Status::Unknown);
    }
}

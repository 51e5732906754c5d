//! ACS: whether a PCIe switch sends peer traffic the long way, up to the root complex.
//!
//! A switch's ports below which a GPU and a drive stand together can pass bytes between them, unless access control
//! services redirect requests or completions upwards. Only privileged readers see that part of config space.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::doctor::check::{Check, Status};
use crate::doctor::hardware::drives;
use crate::doctor::hardware::pci;
use crate::doctor::hardware::pci::Place;
use crate::doctor::hardware::virtualization;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;

/// The bits of the ACS control register that redirect peer requests and completions (PCIe base specification).
const REQUEST_REDIRECT: u16 = 1 << 2;
const COMPLETION_REDIRECT: u16 = 1 << 3;
/// ID of the ACS extended capability, and where its control register stands in it.
const ACS_CAPABILITY: u32 = 0x000D;
const CONTROL_OFFSET: usize = 6;

/// Extended config space, and where it begins.
const CONFIG_BYTES: usize = 4096;
const EXTENDED_START: usize = 256;

/// What one bridge's config space tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Acs {
    /// Peers pass.
    Absent,
    Control(u16),
    /// The kernel shows the first bytes alone to those without the right.
    Unreadable,
}

/// Recorded as the fact `acs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bridge {
    address: String,
    acs: Acs,
}

pub fn check(source: &Source, gpus: &[GpuFacts]) -> Check {
    let at = "/sys/bus/pci/devices/*/config, ACS control";
    let check = |status, value: String| Check::new("machine.acs", "this machine", status, value, at);
    let between = bridges_between(source, gpus);
    if between.is_empty() && virtualization::is_virtual(source) {
        return check(Status::Unknown, "no switch in this virtual machine".into())
            .why("the host's switches, and what they redirect, only the host can tell");
    }
    if between.is_empty() {
        return check(Status::Pass, "no GPU shares a PCIe switch with a drive".into())
            .why("ACS in switches changes nothing where bytes pass the root complex anyhow");
    }
    let read = || Ok(between.iter().map(|address| read_bridge(address)).collect());
    let bridges: Vec<Bridge> = source.fact("acs", read).unwrap_or_default();
    let of = |wanted: &dyn Fn(&Acs) -> bool| -> Vec<&str> {
        let is_between = |bridge: &&Bridge| between.contains(&bridge.address);
        bridges.iter().filter(is_between).filter(|b| wanted(&b.acs)).map(|b| b.address.as_str()).collect()
    };
    let redirecting =
        of(&|acs| matches!(acs, Acs::Control(bits) if bits & (REQUEST_REDIRECT | COMPLETION_REDIRECT) != 0));
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

/// The bridges below a shared switch's upper port, between every GPU and drive that share one.
fn bridges_between(source: &Source, gpus: &[GpuFacts]) -> Vec<String> {
    let drives = drives::controllers(source);
    let mut between = Vec::new();
    for gpu in gpus.iter().filter_map(|gpu| Place::of_address(source, &gpu.pci_address)) {
        for (_, drive) in &drives {
            let shared = gpu.shared(drive).len();
            if shared == 0 {
                continue;
            }
            for place in [&gpu, drive] {
                let bridges = place.functions.len() - 1;
                between.extend(place.functions[shared.min(bridges)..bridges].iter().cloned());
            }
        }
    }
    between.sort();
    between.dedup();
    between
}

fn read_bridge(address: &str) -> Bridge {
    let mut config = Vec::new();
    let file = std::fs::File::open(format!("{}/config", pci::device_path(address)));
    // A file that can't be read shows no extended space, and so counts as unreadable.
    let _ = file.and_then(|file| file.take(CONFIG_BYTES as u64).read_to_end(&mut config));
    Bridge { address: address.to_string(), acs: parse(&config) }
}

/// Walks the chain of extended capabilities: 16 bits ID, 4 bits version, 12 bits offset of the next.
fn parse(config: &[u8]) -> Acs {
    if config.len() <= EXTENDED_START {
        return Acs::Unreadable;
    }
    let mut at = EXTENDED_START;
    // Each capability takes 4 bytes at least: a longer chain leads in a circle.
    for _ in 0..(CONFIG_BYTES - EXTENDED_START) / 4 {
        let Some(header) = config.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
        else {
            return Acs::Absent;
        };
        if header & 0xFFFF == ACS_CAPABILITY {
            let control = at + CONTROL_OFFSET;
            let Some(bytes) = config.get(control..control + 2).and_then(|b| b.try_into().ok()) else {
                return Acs::Unreadable;
            };
            return Acs::Control(u16::from_le_bytes(bytes));
        }
        at = (header >> 20) as usize;
        if at < EXTENDED_START {
            return Acs::Absent;
        }
    }
    Acs::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{tree, tree_with};

    fn config(capabilities: &[(usize, u32, u32)]) -> Vec<u8> {
        let mut config = vec![0u8; CONFIG_BYTES];
        for (at, id, next) in capabilities {
            config[*at..at + 4].copy_from_slice(&(id | 1 << 16 | next << 20).to_le_bytes());
        }
        config
    }

    #[test]
    fn the_capability_is_found_in_the_chain() {
        let mut with = config(&[(0x100, 0x0001, 0x148), (0x148, 0x000D, 0)]);
        with[0x148 + CONTROL_OFFSET] = 0x1D;
        assert_eq!(parse(&with), Acs::Control(0x1D));
        assert_eq!(parse(&config(&[(0x100, 0x0001, 0)])), Acs::Absent);
    }

    #[test]
    fn hostile_chains_end() {
        assert_eq!(parse(&config(&[(0x100, 0x0001, 0x100)])), Acs::Absent, "a circle");
        assert_eq!(parse(&config(&[(0x100, 0x0001, 0xFFC), (0xFFC, 0x000D, 0)])), Acs::Unreadable);
        assert_eq!(parse(&config(&[(0x100, 0x0001, 0xFFE)])), Acs::Absent, "past the end");
        assert_eq!(parse(&[0; 64]), Acs::Unreadable);
        assert_eq!(parse(&[]), Acs::Unreadable);
    }

    #[test]
    fn the_bridges_between_a_gpu_and_its_drives() {
        let tree = tree("bare-metal-gds");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        let between = bridges_between(&tree.source, &gpus);
        assert!(!between.contains(&"0000:16:00.0".to_string()), "the shared upper port: {between:?}");
        assert!(between.len() == 6 && between[0].starts_with("0000:16:0"), "{between:?}");
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

//! ACS: whether a PCIe switch sends peer traffic the long way, up to the root complex.
//!
//! A switch's ports below which a GPU and a drive stand together can pass bytes between them, unless access control
//! services redirect requests or completions upwards. Only privileged readers see that part of config space.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::node::nvme;
use crate::node::nvml::GpuFacts;
use crate::node::pci;
use crate::node::pci::Place;
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
pub enum Acs {
    /// Peers pass.
    Absent,
    Control(u16),
    /// The kernel shows the first bytes alone to those without the right.
    Unreadable,
}

/// Recorded as the fact `acs`, in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bridge {
    pub address: String,
    pub acs: Acs,
}

impl Acs {
    /// Whether requests or completions between peers are sent up to the root complex.
    pub fn redirects(&self) -> bool {
        matches!(self, Acs::Control(bits) if bits & (REQUEST_REDIRECT | COMPLETION_REDIRECT) != 0)
    }
}

/// What these bridges tell.
pub fn read(source: &Source, bridges: &[String]) -> Vec<Bridge> {
    let probe = || Ok(bridges.iter().map(|address| read_bridge(address)).collect());
    let told: Vec<Bridge> = source.fact("acs", probe).unwrap_or_default();
    told.into_iter().filter(|bridge| bridges.contains(&bridge.address)).collect()
}

/// The bridges below a shared switch's upper port, between every GPU and drive that share one.
pub fn bridges_between(source: &Source, gpus: &[GpuFacts]) -> Vec<String> {
    let drives = nvme::controllers(source);
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
    use crate::node::test_tree::tree;

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
    }
}

//! The IOMMU: whether there is one, and for which devices it translates addresses.

use crate::node::pci::device_path;
use crate::node::source::{Source, Unread};

/// The units that are on; empty where there is none.
pub fn units(source: &Source) -> Result<Vec<String>, Unread> {
    match source.list("/sys/class/iommu") {
        Err(Unread::Missing) => Ok(Vec::new()),
        units => units,
    }
}

/// How the IOMMU serves a PCI device: `identity` passes addresses through, everything else translates. `None` where
/// the device is in no group.
pub fn domain_of(source: &Source, address: &str) -> Option<String> {
    source.text(&format!("{}/iommu_group/type", device_path(address))).ok()
}

/// The kernel's parameters that are about the IOMMU.
pub fn parameters(source: &Source) -> Vec<String> {
    let line = source.text("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().filter(|word| word.contains("iommu")).map(str::to_string).collect()
}

//! The hardware half of `doctor`: GPUs, the PCIe way from each to each drive, and the machine around them.
//!
//! Everything is read through [`Source`], so that a recorded tree gives the same answers as the machine it came from.

use super::check::Check;
use super::source::{Source, Unread};
use super::storage::Drive;

/// ACS of the bridges that peer traffic crosses.
mod acs;
/// Errors that PCIe devices count.
mod aer;
/// Memory and CPU limits of this process's groups.
mod cgroup;
/// What NVMe drives tell of themselves.
pub mod drives;
/// What GPUs tell of themselves, judged.
mod gpu;
/// Counters before and after a run.
mod health;
/// IOMMU, lockable memory, huge pages, page cache, CPUs.
mod machine;
/// GPU facts, from NVML.
mod nvml;
/// How far each GPU is from each drive.
mod pairs;
/// Places and links in the PCIe tree.
pub mod pci;
/// The SMART log of NVMe drives.
mod smart;
/// Recorded trees.
#[cfg(test)]
pub mod test_tree;
/// Containers and virtual machines.
pub mod virtualization;
/// A link watched while bytes move.
mod watch;

pub use gpu::link_under_load;
pub use health::{Health, health};
pub use nvml::GpuFacts;
pub use smart::SmartFacts;
pub use watch::{LinkSeen, LinkWatch};

/// The GPUs that NVML sees, in its order. Without the library or a driver, [`Unread::Other`] says which is missing.
/// Recorded as the fact `nvml`.
pub fn gpus(source: &Source) -> Result<Vec<GpuFacts>, Unread> {
    source.fact("nvml", nvml::probe)
}

/// Checks of each GPU and of the machine around them; without GPUs, of the machine alone.
pub fn checks(source: &Source, gpus: &[GpuFacts]) -> Vec<Check> {
    let mut checks: Vec<Check> = gpus.iter().flat_map(|gpu| gpu::checks(source, gpu)).collect();
    checks.extend(machine::checks(source, gpus));
    checks.extend(cgroup::checks(source, gpus));
    checks.push(acs::check(source, gpus));
    checks.extend(virtualization::checks(source));
    checks
}

/// Checks of each NVMe drive: its link and those above it, model, firmware, temperature, SMART warnings.
pub fn drives(source: &Source, drives: &[Drive]) -> Vec<Check> {
    drives.iter().flat_map(|drive| drives::checks(source, drive)).collect()
}

/// How far each GPU is from each drive: one check a pair.
pub fn pairs(source: &Source, gpus: &[GpuFacts], drives: &[Drive]) -> Vec<Check> {
    gpus.iter().flat_map(|gpu| drives.iter().map(|drive| pairs::check(source, gpu, drive))).collect()
}

//! The hardware half of `doctor`: GPUs, the PCIe way from each to each drive, and the machine around them.
//!
//! Everything is read through [`Source`], so that a recorded tree gives the same answers as the machine it came from.

use crate::doctor::check::Check;
use crate::doctor::storage::Drive;
use crate::node::source::{Source, Unread};

pub use crate::doctor::hardware::gpu::link_under_load;
pub use crate::doctor::hardware::health::{Health, health};
pub use crate::doctor::hardware::nvml::GpuFacts;
pub use crate::doctor::hardware::smart::SmartFacts;
pub use crate::doctor::hardware::watch::{LinkSeen, LinkWatch};

/// The GPUs that NVML sees, in its order. Without the library or a driver, [`Unread::Other`] says which is missing.
/// Recorded as the fact `nvml`.
pub fn gpus(source: &Source) -> Result<Vec<GpuFacts>, Unread> {
    source.fact("nvml", crate::doctor::hardware::nvml::probe)
}

/// Checks of each GPU and of the machine around them; without GPUs, of the machine alone.
pub fn checks(source: &Source, gpus: &[GpuFacts]) -> Vec<Check> {
    let mut checks: Vec<Check> =
        gpus.iter().flat_map(|gpu| crate::doctor::hardware::gpu::checks(source, gpu)).collect();
    checks.extend(crate::doctor::hardware::machine::checks(source, gpus));
    checks.extend(crate::doctor::hardware::cgroup::checks(source, gpus));
    checks.push(crate::doctor::hardware::acs::check(source, gpus));
    checks.extend(crate::doctor::hardware::virtualization::checks(source));
    checks
}

/// Checks of each NVMe drive: its link and those above it, model, firmware, temperature, SMART warnings.
pub fn drives(source: &Source, drives: &[Drive]) -> Vec<Check> {
    drives.iter().flat_map(|drive| crate::doctor::hardware::drives::checks(source, drive)).collect()
}

/// How far each GPU is from each drive: one check a pair.
pub fn pairs(source: &Source, gpus: &[GpuFacts], drives: &[Drive]) -> Vec<Check> {
    gpus.iter()
        .flat_map(|gpu| drives.iter().map(|drive| crate::doctor::hardware::pairs::check(source, gpu, drive)))
        .collect()
}

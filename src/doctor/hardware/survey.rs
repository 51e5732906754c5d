//! The hardware half of `doctor`: GPUs, the PCIe way from each to each drive, and the machine around them.
//!
//! Everything is read through [`Source`], so that a recorded tree gives the same answers as the machine it came from.

use crate::doctor::check::Check;
use crate::node::block::Drive;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;

pub use crate::doctor::hardware::gpu::link_under_load;
pub use crate::doctor::hardware::health::{Health, health};

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

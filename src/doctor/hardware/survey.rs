//! The hardware half of `doctor`: GPUs, the PCIe way from each to each drive, and the machine around them.
//!
//! Everything is read through [`Source`], so that a recorded tree gives the same answers as the machine it came from.

use crate::doctor::check::Check;
use crate::doctor::hardware;
use crate::doctor::hardware::{acs, cgroup, gpu, machine, virtualization};
use crate::node::block::Drive;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;

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
    drives.iter().flat_map(|drive| hardware::drives::checks(source, drive)).collect()
}

/// How far each GPU is from each drive: one check a pair.
pub fn pairs(source: &Source, gpus: &[GpuFacts], drives: &[Drive]) -> Vec<Check> {
    gpus.iter()
        .flat_map(|gpu| drives.iter().map(|drive| hardware::pairs::check(source, gpu, drive)))
        .collect()
}

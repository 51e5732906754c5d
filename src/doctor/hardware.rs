//! doctor::hardware

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
pub mod health;
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
mod survey;
/// Recorded trees.
#[cfg(test)]
pub mod test_tree;
/// Containers and virtual machines.
pub mod virtualization;
/// A link watched while bytes move.
mod watch;

pub use survey::*;

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
/// How far each GPU is from each drive.
mod pairs;
/// Places and links in the PCIe tree.
pub mod pci;
mod survey;
/// Containers and virtual machines.
pub mod virtualization;

pub use survey::*;

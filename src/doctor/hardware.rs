//! GPUs, the PCIe way from each to each drive, and the machine around them, judged.

/// ACS of the bridges that peer traffic crosses.
mod acs;
/// Memory and CPU limits of this process's groups.
mod cgroup;
/// What NVMe drives tell of themselves.
mod drives;
/// What GPUs tell of themselves.
mod gpu;
/// PCIe links.
mod links;
/// IOMMU, lockable memory, huge pages, page cache, CPUs.
mod machine;
/// How far each GPU is from each drive.
mod pairs;
mod survey;
/// Containers and virtual machines.
mod virtualization;

pub use gpu::link_under_load;
pub use links::link_check;
pub use survey::*;

//! Facts of a machine, read through a root, so that recorded trees can drive them. Each is parsed in one place, and none
//! is kept beyond a load.

/// Which switches send peer traffic the long way.
pub mod acs;
/// Errors that PCIe devices count.
pub mod aer;
/// The device by which the host of a virtual machine takes memory back.
pub mod balloon;
/// Block devices, down to drives.
pub mod block;
/// Control groups: where their limits stand, and what one leaves of memory.
pub mod cgroup;
/// Processors.
pub mod cpu;
/// What links GPUs to each other.
pub mod gpu_links;
/// Counters of GPUs, drives and bridges at one moment.
pub mod health;
/// Address translation between devices.
pub mod iommu;
/// The kernel, and what it was built with.
pub mod kernel;
/// A GPU's PCIe link, watched while bytes move.
pub mod link_watch;
/// How much memory there is, and how much can still be had.
pub mod memory;
/// Which mount holds a path.
pub mod mounts;
/// What NVIDIA's driver and nvidia-fs show.
pub mod nvidia;
/// NVMe controllers.
pub mod nvme;
/// What NVIDIA's management library tells of each GPU.
pub mod nvml;
/// Places and links in the PCIe tree.
pub mod pci;
/// The SMART log of NVMe drives.
pub mod smart;
/// This machine, or a recorded one.
pub mod source;
/// Recorded trees, for tests.
#[cfg(test)]
pub mod test_tree;
/// How far two devices are from each other.
pub mod topology;
/// What udev knows of block devices.
pub mod udev;
/// Containers and virtual machines.
pub mod virtualization;

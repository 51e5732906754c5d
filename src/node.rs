//! Facts of a machine, read through a root, so that recorded trees can drive them.

/// Block devices, down to drives.
pub mod block;
/// Control groups: where their limits stand, and what one leaves of memory.
pub mod cgroup;
/// A GPU's PCIe link, watched while bytes move.
pub mod link_watch;
/// What NVIDIA's management library tells of each GPU.
pub mod nvml;
/// The SMART log of NVMe drives.
pub mod smart;
/// This machine, or a recorded one.
pub mod source;
/// Recorded trees, for tests.
#[cfg(test)]
pub mod test_tree;

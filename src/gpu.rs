//! CUDA devices: contexts, memory, copies, kernels.

/// Copies to devices.
pub mod copies;
mod device;
/// Reads by cuFile into device memory.
pub mod direct;
/// Device memory of other processes.
pub mod ipc;
/// Kernels over device memory.
pub mod kernels;
/// One GPU's link to the host.
pub mod link;
/// Facts of the links between all GPUs.
pub mod link_facts;
/// Device memory.
pub mod memory;
mod module;
/// Packed bytes that lie in pinned memory, sent over a link.
pub mod packed_link;
/// What one GPU can do with the memory of another.
pub mod peers;
/// Host memory that is pinned for devices.
pub mod pinned;
mod relay;
/// Copies of rows that lie apart.
pub mod rows;
/// Where the bytes of a buffer land.
pub mod scatter;
/// Buffers of the ring.
pub mod slot;
mod staging;
mod sticky;
mod stream;
/// Packed weights unpacked there.
pub mod unpack;

pub use device::{Device, Gpu, GpuError, count, devices, open, open_all};
pub use module::MADE_BY;
pub use sticky::is_sticky;
pub use stream::CallerEvent;

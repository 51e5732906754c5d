//! CUDA devices: contexts, memory, copies, kernels.

/// Copies to devices.
pub mod copies;
mod device;
/// Reads by cuFile into device memory.
pub mod direct;
/// Kernels over device memory.
pub mod kernels;
/// Device memory and pinned host memory.
pub mod memory;
mod module;
/// Copies of rows that lie apart.
pub mod rows;
/// Where the bytes of a buffer land.
pub mod scatter;
/// Buffers of the ring.
pub mod slot;
mod sticky;
mod stream;

pub use device::{Device, Gpu, GpuError, count, devices, open, open_all};
pub use module::MADE_BY;
pub use sticky::is_sticky;

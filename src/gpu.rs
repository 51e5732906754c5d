//! gpu

/// Copies to devices.
pub mod copies;
pub(crate) mod device;
/// Reads by cuFile into device memory.
pub mod direct;
/// Kernels over device memory.
pub mod kernels;
/// Device memory and pinned host memory.
pub mod memory;

pub use device::*;

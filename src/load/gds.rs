//! load::gds

/// Whether to take cuFile at all.
pub mod choose;
mod engine;
/// Loads by cuFile.
pub mod load;
/// Which way the bytes go, by counters.
pub mod proof;
/// Registered device memory.
pub mod slabs;
/// Whether GPUDirect Storage is possible, and why not.
pub mod ways;
/// One thread's reads.
mod worker;

pub use engine::*;

//! Storage straight to GPU memory, by cuFile.

/// What fits the GPUs' BAR1.
pub mod bar1;
/// Whether to take cuFile at all.
pub mod choose;
/// Files registered with cuFile, and what was proven of them.
pub mod engine;
/// Loads by cuFile.
pub mod load;
/// What reads by cuFile fill.
pub mod memory;
/// Why a load by cuFile does not begin.
pub mod no_start;
/// Which way the bytes go, by counters.
pub mod proof;
/// Registered device memory.
pub mod slabs;
/// Whether GPUDirect Storage is possible, and why not.
pub mod ways;
/// One thread's reads.
pub mod worker;

pub use engine::{Gds, GdsEngine};

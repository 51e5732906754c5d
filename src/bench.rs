//! Loads measured in turns against SafeTensors: modes, cache control, baselines.

/// SafeTensors as Rust users load it.
mod baseline;
/// Evicting files and measuring residency.
pub mod cache;
/// What a load finds in the page cache.
pub mod conditions;
/// What a load leaves.
pub mod done;
/// Modes, formats, baselines.
pub mod format;
/// Keeping memory present until a load takes it.
pub mod hold;
/// One measured load.
pub mod one;
/// The checkpoints of a run, made where they are missing.
mod prepare;
/// SafeTensors and its peers as Python users load them.
mod python;
mod run;

pub use run::*;

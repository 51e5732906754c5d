//! Result files to tables, speedups, plots and pages: read → input and frame → figures → show.

/// Result files to every figure.
mod analysis;
pub mod figures;
/// One frame of loads, a row a load.
pub mod frame;
/// Result files to that frame.
pub mod input;
/// What loads must have in common to be averaged.
pub mod key;
pub mod read;
pub mod show;

pub use analysis::*;

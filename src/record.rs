//! The result file: what `bench` writes and `analyze` reads.

/// The machine a run ran on.
pub mod environment;
/// The median.
pub mod median;
/// Names of the files that stand beside result files.
pub mod names;
/// The result file.
pub mod result;

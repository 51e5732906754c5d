//! cli

/// `sllm-gds analyze`.
#[cfg(feature = "analyze")]
pub mod analyze;
mod args;
/// Shell completions and man pages, from the command line's own types.
pub mod complete;
/// How to load.
mod engine;
/// `inspect`: what a checkpoint holds.
pub mod inspect;
/// `sllm-gds load`.
pub mod load;
/// Progress on a terminal, silence in a pipe.
pub mod progress;
/// `sllm-gds qualify`.
pub mod qualify;
/// The end of a run: table and plot.
pub mod summary;
/// Sizes, shares, times, GPU lists.
mod words;

pub use args::*;

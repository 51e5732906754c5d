//! cli

mod args;
/// Shell completions and man pages, from the command line's own types.
pub mod complete;
/// `doctor`: whether GPUDirect Storage works here.
pub mod doctor;
/// How to load.
mod engine;
/// `inspect`: what a checkpoint holds.
pub mod inspect;
/// `sllm-gds load`.
pub mod load;
/// Progress on a terminal, silence in a pipe.
pub mod progress;
/// The end of a run: table and plot.
pub mod summary;
/// Sizes, shares, times, GPU lists.
mod words;

pub use args::*;

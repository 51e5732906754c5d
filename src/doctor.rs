//! `sllm-gds doctor`: can these file systems and GPUs do GPUDirect Storage, and is the path as fast as its parts?

/// One finding.
pub mod check;
/// This machine, or a recorded one.
pub mod source;

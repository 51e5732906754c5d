//! `sllm-gds` moves LLM checkpoints from NVMe to GPUs and proves that every byte arrived.
//!
//! The path of a byte: [`cli`] → [`checkpoint`] → [`load`] (plan → engine → [`memory`]) → [`digest`].
//! The path of a measurement: [`cli`] → [`bench`] → `results/*.json` → `analyze`.

// What is printed past `cli::print` could carry others' escapes to the terminal.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

/// Result files to tables, speedups and plots.
#[cfg(feature = "analyze")]
pub mod analyze;
/// Loads measured in turns against SafeTensors.
#[cfg(feature = "cli")]
pub mod bench;
/// What a checkpoint is: layouts, manifest, types, and which files are the model.
pub mod checkpoint;
/// The command line.
pub mod cli;
/// cuFile (GPUDirect Storage), loaded with dlopen.
pub mod cufile;
/// What this machine can do, and what stands in its way.
pub mod doctor;
/// CUDA devices, through cudarc.
pub mod gpu;
/// Plans, engines, and the one loop that moves bytes.
pub mod load;
/// Facts of a machine.
pub mod node;
/// Where models come from: a directory, the hub, made-up values.
pub mod origin;
/// System calls, host memory, page cache, digests, cancellation.
pub mod os;
/// What every page needs.
#[cfg(feature = "cli")]
pub mod page;
/// A node held against what its parts allow, a profile, or an earlier node.
#[cfg(feature = "cli")]
pub mod qualify;
/// The result file.
#[cfg(feature = "cli")]
pub mod record;
/// New checkpoints on disk, whole or not at all.
pub mod write;

/// What a command came to; `main` turns it into the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Yes,
    /// Exit code 1: it ran, and the answer is no (a mismatch, a failed load, a regression).
    No,
    /// Exit code 2: it ran, and the answer can't be told.
    Unknown,
    /// Exit code 130: Ctrl-C; what was done is kept.
    Interrupted,
}

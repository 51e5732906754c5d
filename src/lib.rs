//! `sllm-gds` moves LLM checkpoints from NVMe to GPUs and proves that every byte arrived.
//!
//! The path of a byte: [`cli`] → [`checkpoint`] → [`load`] (plan → engine → [`memory`]) → [`digest`].
//! The path of a measurement: [`cli`] → [`bench`] → `results/*.json` → `analyze`.

// What is printed past `text` could carry others' escapes to the terminal.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

/// Result files to tables, speedups and plots.
#[cfg(feature = "analyze")]
pub mod analyze;
/// Loads measured in turns against SafeTensors.
pub mod bench;
/// Checkpoints on disk: opened, checked, saved, made up, fetched.
pub mod checkpoint;
/// This program again, as a child with a time limit.
pub mod child;
/// The command line.
pub mod cli;
/// Shell completions and man pages, from the command line's own types.
pub mod complete;
/// cuFile (GPUDirect Storage), loaded with dlopen.
pub mod cufile;
/// Block digests of bytes in host memory.
pub mod digest;
/// What this machine can do, and what stands in its way.
pub mod doctor;
/// CUDA devices, through cudarc.
pub mod gpu;
/// What every page needs.
pub mod html;
/// Ctrl-C, once for the whole process.
pub mod interrupt;
/// Plans, engines, and the one loop that moves bytes.
pub mod load;
/// The middle of some figures.
pub mod median;
/// Host buffers.
pub mod memory;
/// Facts of a machine.
pub mod node;
/// Progress on a terminal, silence in a pipe.
pub mod progress;
/// A node held against what its parts allow, a profile, or an earlier node.
pub mod qualify;
/// Hidden directories that killed processes leave, told from those of living ones.
pub mod remains;
/// What the page cache holds of a file.
pub mod residency;
/// System calls that std does not have.
pub mod sys;
/// Text for the terminal: others' names can't paint it.
pub mod text;

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

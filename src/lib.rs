//! `sllm-gds` moves LLM checkpoints from NVMe, page cache or host memory to GPUs at the speed of the wires, and proves that
//! every byte arrived.
//!
//! ```no_run
//! use sllm_gds::{Checkpoint, Loader, Request, To};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let loader = Loader::builder().build()?;
//! let checkpoint = Checkpoint::open("models/llama")?;
//! let model = loader.load(&checkpoint, &Request::to(To::gpu(0)))?;
//! let norm = model.get("model.norm.weight")?;
//! println!("{:?} {:?} at {:#x}; {:.1} GB/s", norm.dtype, norm.shape, norm.address, model.report().gb_per_s);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Loader`] keeps what is dear to make (CUDA contexts, pinned memory, streams) from one load to the next; build one and
//! share it. [`Checkpoint::open`] takes a directory in ServerlessLLM's layout or of safetensors files, or one such file. What
//! goes wrong is an [`Error`], whose variants a program can decide on.
//!
//! What is named here is the public face, and changes by semantic versioning. Everything else that can be reached is for
//! the program `sllm-gds` and for tests: hidden from these pages, and changed at will.

#![deny(missing_docs)]
// What is printed past `cli::print` could carry others' escapes to the terminal.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub use checkpoint::{Checkpoint, DType};
pub use load::{
    Builder, ByteRange, Device, EngineChoice, IoChoice, LoadReport, Loader, Memory, Model, Phases, Request,
    Select, Slice, Target, To, Weight,
};
pub use os::cancel::Cancel;
pub use os::error::Error;

/// Result files to tables, speedups and plots.
#[cfg(feature = "analyze")]
#[doc(hidden)]
pub mod analyze;
/// Loads measured in turns against SafeTensors.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench;
/// What a checkpoint is: layouts, manifest, types, and which files are the model.
pub mod checkpoint;
/// The command line.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
/// cuFile (GPUDirect Storage), loaded with dlopen.
#[doc(hidden)]
pub mod cufile;
/// What this machine can do, and what stands in its way.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod doctor;
/// CUDA devices, through cudarc.
#[doc(hidden)]
pub mod gpu;
/// Plans, engines, and the one loop that moves bytes.
pub mod load;
/// Facts of a machine.
#[doc(hidden)]
pub mod node;
/// Where models come from: a directory, the hub, made-up values.
#[doc(hidden)]
pub mod origin;
/// System calls, host memory, page cache, digests, cancellation.
#[doc(hidden)]
pub mod os;
/// What every page needs.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod page;
/// A node held against what its parts allow, a profile, or an earlier node.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod qualify;
/// The result file.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod record;
/// New checkpoints on disk, whole or not at all.
#[doc(hidden)]
pub mod write;

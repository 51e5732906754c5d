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
//! To host memory, without a GPU, and only some of the tensors:
//!
//! ```no_run
//! use sllm_gds::{Checkpoint, Error, Loader, Request, Select, To};
//!
//! # fn main() -> Result<(), Error> {
//! let checkpoint = Checkpoint::open("models/llama")?;
//! let request = Request::to(To::Host).select(Select::Prefix("model.layers.0.".into())).verify(true);
//! let model = Loader::builder().build()?.load(&checkpoint, &request)?;
//! for weight in model.weights() {
//!     let bytes: &[u8] = weight.host_bytes().unwrap_or_default();
//!     println!("{} {:?} {:?}: {} bytes", weight.name, weight.dtype, weight.shape, bytes.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Loader`] keeps what is dear to make (CUDA contexts, pinned memory, streams) from one load to the next; build one and
//! share it. [`Checkpoint::open`] takes a directory in ServerlessLLM's layout or of safetensors files, or one such file. What
//! goes wrong is an [`Error`], whose variants a program can decide on.
//!
//! CUDA does not survive a fork: a loader refuses to work in a process that was forked from its own ([`Error::Refused`]), so
//! start processes by spawn, or build a loader in each. Where an error breaks the CUDA context (an illegal address in anybody's
//! kernel does), every later load to a GPU or to the host by that loader fails with [`Error::Cuda`]: only a new process gets a
//! new context. Models that were loaded before stay, and what lies in host memory can still be read.
//!
//! What is named here is the public face, and changes by semantic versioning. Everything else that can be reached is for
//! the program `sllm-gds` and for tests: hidden from these pages, and changed at will.

#![deny(missing_docs)]
// `missing_docs` passes over what lies in hidden modules, also where it is named here. So the modules that the public face comes
// from are hidden from the pages alone, and those of their children that it does not come from are hidden from both.
// What is printed past `cli::print` could carry others' escapes to the terminal.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[doc(inline)]
pub use checkpoint::{Checkpoint, DType, Layout, Tensor};
#[doc(inline)]
pub use load::{
    Builder, ByteRange, Device, EngineChoice, IoChoice, LinkReport, Links, LoadReport, Loader, Memory, Model,
    Phases, Request, Select, Slice, Target, To, Weight,
};
#[doc(inline)]
pub use os::cancel::Cancel;
#[doc(inline)]
pub use os::error::Error;

/// Result files to tables, speedups and plots.
#[cfg(feature = "analyze")]
#[doc(hidden)]
pub mod analyze;
/// Loads measured in turns against SafeTensors.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench;
/// The C ABI.
#[cfg(feature = "capi")]
#[doc(hidden)]
pub mod capi;
/// What a checkpoint is: layouts, manifest, types, and which files are the model.
#[cfg_attr(doc, doc(hidden))]
pub mod checkpoint;
/// The command line.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
/// Models from a store server: this program's own client.
#[cfg(feature = "client")]
pub mod client;
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
#[cfg_attr(doc, doc(hidden))]
pub mod load;
/// Facts of a machine.
#[doc(hidden)]
pub mod node;
/// Where models come from: a directory, the hub, made-up values.
#[doc(hidden)]
pub mod origin;
/// System calls, host memory, page cache, digests, cancellation.
#[cfg_attr(doc, doc(hidden))]
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
/// The store server.
#[cfg(feature = "serve")]
#[doc(hidden)]
pub mod serve;
/// What goes between the store server and its clients.
#[cfg(feature = "client")]
#[doc(hidden)]
pub mod wire;
/// New checkpoints on disk, whole or not at all.
#[doc(hidden)]
pub mod write;

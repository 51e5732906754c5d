//! The loader: a plan in, bytes in place and a report out.

/// Two checkpoints, tensor by tensor.
pub mod compare;
/// What an engine is.
pub mod engine;
/// Storage faults from a seed, for tests.
pub mod fault;
/// Storage straight to GPU memory, by cuFile.
pub mod gds;
/// Copies that several readers fill.
pub mod group;
/// Storage into host memory.
pub mod host;
/// A plan's reads, with the memory that they fill.
pub mod jobs;
/// A checkpoint in memory.
pub mod loaded;
/// How to load.
pub mod options;
/// Storage to GPU memory through a pinned ring.
pub mod pinned;
/// Which bytes go where.
pub mod plan;
/// Host memory that keeps loaded checkpoints.
pub mod pool;
/// Loads through the pool.
pub mod pooled;
/// What loads to GPUs begin with.
mod prepare;
/// What a load did.
pub mod report;
/// From the call to the last byte.
mod run;
/// What a load was asked for.
pub mod settings;
/// How large copies and the ring are.
mod shape;
/// Files read through or past the page cache.
pub mod source;
/// `verify`: digests from disk, and comparison.
pub mod stored;
/// The one loop that moves bytes.
pub mod transfer;
/// Digests of what lies in the destination.
pub mod verify;

pub use jobs::in_place;
pub use loaded::{Buffer, Destination, Loaded, Placement, View};
pub use options::Options;
pub(crate) use options::default_threads;
pub use report::{Clock, LoadReport, Phases};
pub use run::load;
pub use settings::{EngineChoice, IoChoice, OnError, Register, Settings};
pub use transfer::transfer;

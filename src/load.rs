//! load

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
/// How to load.
pub(crate) mod options;
/// Where the time of a load goes.
pub mod phases;
/// Storage to GPU memory through a pinned ring.
pub mod pinned;
/// Which bytes go where.
pub mod plan;
/// Host memory that keeps loaded checkpoints.
pub mod pool;
/// Loads through the pool.
pub mod pooled;
mod run;
/// How large copies and the ring are.
pub(crate) mod shape;
/// Files read through or past the page cache.
pub mod source;
/// Digests recomputed from disk.
pub mod stored;
/// The one loop that moves bytes.
pub(crate) mod transfer;
/// Digests of what lies in the destination.
pub mod verify;

pub use run::*;

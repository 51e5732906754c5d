//! The loader: a plan in, bytes in place and a report out.

/// Copies that several readers fill.
#[doc(hidden)]
pub mod batch;
/// Two checkpoints, tensor by tensor.
#[doc(hidden)]
pub mod compare;
/// Copies that are not queued yet.
#[doc(hidden)]
pub mod copies_left;
/// Digests made as bytes are read.
mod digesting;
/// What an engine is.
#[doc(hidden)]
pub mod engine;
/// Why a load failed.
mod error;
/// Storage faults from a seed, for tests.
#[doc(hidden)]
pub mod fault;
/// Which faults storage has, for tests.
#[doc(hidden)]
pub mod faults;
/// Loads that are given their memory bit by bit.
mod fed;
/// Memory that a load is given bit by bit.
#[doc(hidden)]
pub mod feed;
/// Storage straight to GPU memory, by cuFile.
#[doc(hidden)]
pub mod gds;
/// Storage into host memory.
#[doc(hidden)]
pub mod host;
/// What is planned before a load begins.
mod into;
/// A plan's reads, with the memory that they fill.
#[doc(hidden)]
pub mod jobs;
/// What the pool of a loader keeps.
pub mod kept;
/// Where the bytes of file ranges land.
#[doc(hidden)]
pub mod landings;
/// One link's share of the ring.
mod lane;
/// Over which links bytes come.
#[doc(hidden)]
pub mod links;
/// A checkpoint in memory.
#[doc(hidden)]
pub mod loaded;
/// The loader that others hold.
pub mod loader;
/// A loaded model.
pub mod model;
/// How to load.
#[doc(hidden)]
pub mod options;
/// The pool of a loader.
mod own_pool;
/// Packed files in the pool.
mod packed_ranges;
/// Tensors as they are delivered: whole, or slices.
mod parts;
/// Where the time of a load goes.
pub mod phases;
/// Storage to GPU memory through a pinned ring.
#[doc(hidden)]
pub mod pinned;
/// Which bytes go where.
#[doc(hidden)]
pub mod plan;
/// Host memory that keeps file ranges of checkpoints.
#[doc(hidden)]
pub mod pool;
/// Loads through the pool.
#[doc(hidden)]
pub mod pooled;
/// What loads to GPUs begin with.
mod prepare;
/// Where ranges of the pool go.
mod receiver;
/// What a load did.
pub mod report;
/// What a loader is asked for.
pub mod request;
/// A second, plain read.
mod reread;
/// Rings that are kept.
mod rings;
/// From the call to the last byte.
mod run;
/// What a load was asked for.
pub mod settings;
/// How large copies and the ring are.
mod shape;
/// Work that several links share.
#[doc(hidden)]
pub mod shared;
/// Files read through or past the page cache.
#[doc(hidden)]
pub mod source;
/// Digests recomputed from disk.
#[doc(hidden)]
pub mod stored;
/// What a load is to do.
#[doc(hidden)]
pub mod task;
/// Ranges of the pool on their way to devices.
mod to_devices;
/// Ranges of the pool on their way to host memory.
mod to_host;
/// Packed ones, unpacked there.
mod to_host_unpacked;
/// Packed ranges of the pool on their way to devices.
mod to_unpack;
/// The one loop that moves bytes.
#[doc(hidden)]
pub mod transfer;
/// Packed files, unpacked as they are read.
mod unpacking;
/// Digests of what lies in the destination.
#[doc(hidden)]
pub mod verify;

pub use feed::{Arrival, Feed};
pub use jobs::in_place;
pub use kept::{Evicted, Kept, PoolReport, Warmed};
pub use loaded::{Buffer, Destination, Loaded, Placement, View};
pub use loader::{Builder, Loader};
pub use model::{Device, Model, Weight};
pub use options::Options;
pub(crate) use options::default_threads;
pub use parts::Slice;
pub use phases::Phases;
pub use report::{Clock, LinkReport, LoadReport};
pub use request::{ByteRange, Memory, Request, Select, Target, To};
pub use run::load;
pub use settings::{EngineChoice, IoChoice, Links, OnError, Register, Settings};
pub use transfer::{transfer, transfer_from};

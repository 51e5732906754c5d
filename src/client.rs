//! Models from a store server (`sllm-gds serve`), into memory of this process's own.
//!
//! ```no_run
//! use sllm_gds::client::Client;
//!
//! # fn main() -> Result<(), sllm_gds::client::ClientError> {
//! let client = Client::connect("127.0.0.1:8073")?;
//! let model = client.load("llama", 0)?;
//! let norm = model.get("model.norm.weight")?;
//! println!("{:?} {:?} at {:#x}; {:.1} GB/s", norm.dtype, norm.shape, norm.address, model.report().gb_per_s);
//! # Ok(())
//! # }
//! ```
//!
//! Calls block, from any thread, inside of an asynchronous runtime too. A client may be shared; its calls run side by side.

/// Where a server listens.
mod address;
/// What can be asked of a server.
mod calls;
/// A server, connected to.
mod connection;
/// Why a call failed.
mod error;
/// A load under way.
mod loading;
/// A model in memory.
mod model;
/// What a server holds and does.
mod status;

pub use calls::{Client, Described, Warmed};
pub use error::ClientError;
pub use loading::Loading;
pub use model::{Report, ServedModel, ServedTensor};
pub use status::{PoolStatus, ServedStatus, Status, UnderWay};

//! Models on a hub, as Hugging Face has them: what is there, fetched into the cache that other tools share.

/// What the hub's interface offers.
pub mod api;
/// One file's bytes: resumed, checked, put in place.
pub mod blob;
/// The layout of the cache on disk.
pub mod cache;
/// Requests, redirects, retries, and what the hub's refusals mean.
pub mod client;
mod fetch;
mod model;
mod options;
/// URLs and their owners.
pub mod url;

pub use fetch::fetch;
pub use model::is_id;
pub use options::{Options, Token};

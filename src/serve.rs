//! The store server: ServerlessLLM's clients, and this program's own, load models through it. It says who may ask and what stays
//! in the pool; the bytes are moved by the loader.

/// Ports and sockets.
mod address;
/// Whether clients got what was saved.
mod check;
/// What the server tells whoever started it.
pub mod events;
/// How it begins to serve, and how it ends.
mod listen;
/// What Prometheus is told.
mod metrics;
/// Which models there are.
mod models;
/// This program's own interface.
mod ours;
/// Why a call failed.
mod refusal;
/// What became of loads.
mod replicas;
/// Loads of this program's own clients, by id.
mod running;
/// Where Prometheus asks.
mod scrape;
/// What it was asked to be.
mod settings;
/// What both interfaces do.
mod store;
/// ServerlessLLM's interface.
mod theirs;
/// Loads that run at the moment.
mod under_way;
/// What a client wants loaded.
mod wanted;
/// Work that blocks.
mod work;

pub use listen::{Ended, serve};
pub use settings::{Settings, Tell, Verify};

pub use crate::wire;
pub use crate::wire::{Gpus, fake};

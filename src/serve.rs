//! The store server: ServerlessLLM's clients, and this program's own, load models through it. It says who may ask and what stays
//! in the pool; the bytes are moved by the loader.

/// What both interfaces say on the wire, generated from `proto/` (`tests/proto.rs` holds that it is fresh).
pub mod wire;

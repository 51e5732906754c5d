//! Where models come from: a directory, the hub, made-up values.

/// Fetching a model from the Hugging Face hub.
#[cfg(feature = "hub")]
pub mod hub;
/// What `save` can read.
pub mod input;
/// Published shapes with made-up values.
pub mod synthetic;

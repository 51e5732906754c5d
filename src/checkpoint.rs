//! What a checkpoint is: layouts, manifest, types, and which names of a listing are the model.

/// What goes beside the weights.
#[doc(hidden)]
pub mod beside;
/// Files that count up without saying to what.
mod count_up;
/// Element types and their names.
pub mod dtype;
/// What can be wrong with one.
mod error;
/// The model among files that no index names.
mod families;
/// An index over safetensors files that stay as they are.
#[doc(hidden)]
pub mod indexed;
/// JSON objects whose keys must not repeat.
pub(crate) mod json;
/// What lies in a directory, and where its links may lead.
pub(crate) mod listing;
/// `sllm_gds.json`: what we add to ServerlessLLM's layout.
#[doc(hidden)]
pub mod manifest;
/// Holding a manifest against what it describes.
mod manifest_check;
/// Modules of a model, and cuts between them.
#[doc(hidden)]
pub mod modules;
/// Names of files in both layouts.
#[doc(hidden)]
pub mod names;
/// Telling layouts apart, and what is wrong where none is found.
pub(crate) mod open;
/// Packed weights.
#[doc(hidden)]
pub mod packed;
/// Tensors' bytes from a checkpoint's files.
#[doc(hidden)]
pub mod reader;
/// Reading and indexing safetensors files and directories.
#[doc(hidden)]
pub mod safetensors;
/// Which files of a listing are the model.
#[doc(hidden)]
pub mod select;
/// The files of a checkpoint for loads of byte ranges, as a store server hands them out.
#[doc(hidden)]
pub mod served;
/// Indices of shards.
mod shard_index;
/// Numbered sets of files.
pub(crate) mod shard_sets;
/// Reading and indexing ServerlessLLM's layout.
#[doc(hidden)]
pub mod sllm;
/// What a file is, by its first bytes.
pub(crate) mod sniff;
/// Telling that a file changed.
mod stamp;
mod types;
/// What unfinished downloads and copies leave.
mod under_way;
/// Whether a choice of weights is all of a model.
mod wholeness;

pub use dtype::DType;
pub use error::{CheckpointError, malformed};
pub(crate) use listing::list;
pub use stamp::Stamp;
pub use types::*;

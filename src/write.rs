//! New files on disk, whole or not at all: save, export.

/// Windows packed in parallel, written in order.
mod chunks;
/// `export`: any checkpoint back to safetensors.
pub mod export;
/// Files written whole, in parallel, past the page cache.
pub mod files;
/// What ServerlessLLM's clients need beside the weights.
pub mod for_clients;
/// Files of ours in a directory that stays.
mod in_place;
/// `index`: safetensors files for ServerlessLLM's clients, as they are.
pub mod index;
/// What a save takes.
pub mod input;
/// Models whose modules are known by name.
mod known_models;
/// `pack`, and `save` of packed weights.
pub mod pack;
/// `save`: a source of tensors laid out in partitions.
pub mod save;
/// Files that go beside the weights.
pub mod sidecars;
/// Directories that appear whole or not at all.
pub mod staging;
/// Whether a target may be written to, or replaced.
pub mod target;
/// The text of `tensor_index.json`.
pub mod tensor_index;

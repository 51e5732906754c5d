//! New files on disk, whole or not at all: save, export.

/// Windows packed in parallel, written in order.
mod chunks;
/// `export`: any checkpoint back to safetensors.
pub mod export;
/// Files written whole, in parallel, past the page cache.
pub mod files;
/// What a save takes.
pub mod input;
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

//! Packed weights: fewer bytes, without loss. `docs/packed.md` says what lies on disk.

/// One block of values: packed and unpacked.
mod block;
/// A window of a partition, packed.
mod chunk;
/// Chunks unpacked.
mod decode;
/// Windows packed.
mod encode;
/// What a packed block may be: forms, tiers, sizes.
mod format;
/// `packed_index.json`.
mod index;
/// Where the bytes of unpacked files are.
mod map;
/// Opening a packed checkpoint.
pub(super) mod open;
/// Planes of a few bits an item.
mod planes;
/// The same with BMI2.
#[cfg(target_arch = "x86_64")]
mod planes_x86;
/// Plain reads of packed files.
mod read;
/// Exponents in tiers of codes: plain code.
mod tiers;
/// The same with AVX2 and BMI2.
#[cfg(target_arch = "x86_64")]
mod tiers_x86;
/// The GPU's code against this one.
#[cfg(test)]
mod twin;
/// Values taken apart into exponents and the rest.
mod values;

pub use chunk::{Chunk, Damaged};
pub use decode::Decoder;
pub use encode::{Encoded, Encoder, Span};
pub use format::{Form, REQUIREMENT, WINDOW_BYTES};
pub use index::{INDEX_VERSION, Index, IndexFile};
pub use map::{Packed, PackedFile, Within};
pub use read::{damaged, decode, read};

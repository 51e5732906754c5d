//! A plan is pure data: which byte range of which file goes to which places of which destinations.
//!
//! Extents are what is read, each byte once: runs of a file that begin and end at multiples of 4 KiB, so that `O_DIRECT`
//! and cuFile can read them. Pieces are what is delivered of an extent: all of it at once where a destination keeps the
//! file's own distances, else one for each run of tensors that can move together.

/// Any ranges, to any places.
mod deliver;
mod extents;
mod share;

pub use deliver::{Destined, Wanted};
pub use extents::*;
pub(in crate::load) use extents::{furthest_ends, pieces_within};
pub use share::owners;
#[cfg(test)]
pub(crate) use share::tests::checkpoint as test_checkpoint;

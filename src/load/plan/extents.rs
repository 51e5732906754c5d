//! What a plan is: extents, pieces, places, and the reads that they are cut to.

use std::ops::Range;

pub use crate::gpu::scatter::Piece;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Tensors on a GPU begin at multiples of this: kernels refuse or crawl on less.
pub const TENSOR_ALIGN: u64 = 256;

/// How tensors lie in a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// As in the file, whole pages at once: host memory, which direct reads fill in place.
    AsInFile,
    /// Every tensor at a multiple of [`TENSOR_ALIGN`]: device memory.
    Aligned,
}

/// How the bytes of an extent are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// As they are.
    #[default]
    Plain,
}

/// A run of one file. It begins at a multiple of 4 KiB, and ends at one unless the file ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub file: usize,
    pub file_offset: u64,
    pub bytes: u64,
    pub codec: Codec,
    /// Extents of one lane are read by the same threads, into the same ring.
    pub lane: usize,
    /// Which of the plan's pieces are of it.
    pub pieces: Range<usize>,
}

/// Where a tensor will lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub destination: usize,
    pub offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub extents: Vec<Extent>,
    /// `from` counts from the extent's first byte, and ascends within it. What is delivered twice stands in two.
    pub pieces: Vec<Piece>,
    /// How many lanes its extents are in.
    pub lanes: usize,
    /// Bytes to allocate for each destination: multiples of 4 KiB.
    pub destination_bytes: Vec<u64>,
    /// A place for each tensor of the checkpoint, in its order.
    pub places: Vec<Place>,
}

/// One read of a plan: up to so many bytes of an extent, and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub file: usize,
    pub file_offset: u64,
    pub bytes: u64,
    /// `from` counts from the cut's first byte.
    pub pieces: Vec<Piece>,
}

impl Plan {
    /// The plan's reads: its extents, cut to at most `bytes` (a multiple of 4 KiB), in their order.
    pub fn cuts(&self, bytes: u64) -> impl Iterator<Item = Cut> + '_ {
        let bytes = align_up(bytes.max(1), DIRECT_ALIGN);
        self.extents.iter().flat_map(move |extent| {
            let pieces = &self.pieces[extent.pieces.clone()];
            let ends = furthest_ends(pieces);
            (0..extent.bytes.div_ceil(bytes)).map(move |number| {
                let start = number * bytes;
                let end = extent.bytes.min(start + bytes);
                Cut {
                    file: extent.file,
                    file_offset: extent.file_offset + start,
                    bytes: end - start,
                    pieces: pieces_within(pieces, &ends, start, end),
                }
            })
        })
    }

    /// How many reads of at most `bytes` there are.
    pub fn cut_count(&self, bytes: u64) -> usize {
        self.extents.iter().map(|extent| extent.bytes.div_ceil(bytes.max(1)) as usize).sum()
    }

    /// Bytes that pieces deliver, to all destinations: with padding between tensors where that moves along.
    pub fn delivered_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes * piece.rows).sum()
    }

    /// Bytes that will be read.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }
}

/// Reading this much for nothing costs less than a read of its own.
pub(super) const GAP_BYTES: u64 = 64 << 10;

/// For each piece, where the furthest of it and those before it ends: it ascends, so that a window's first piece is found
/// by halving, also where pieces overlap.
pub(in crate::load) fn furthest_ends(pieces: &[Piece]) -> Vec<u64> {
    let mut furthest = 0;
    let end = |piece: &Piece| {
        furthest = piece.from_end().unwrap_or(u64::MAX).max(furthest);
        furthest
    };
    pieces.iter().map(end).collect()
}

/// What of these pieces lies in a window.
pub(in crate::load) fn pieces_within(pieces: &[Piece], ends: &[u64], start: u64, end: u64) -> Vec<Piece> {
    let first = ends.partition_point(|furthest| *furthest <= start);
    let met = pieces[first..].iter().take_while(|piece| piece.from < end);
    met.flat_map(|piece| piece.within(start, end)).collect()
}

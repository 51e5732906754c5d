//! What a plan is: extents, pieces, places, and the reads that they are cut to.

use std::ops::Range;

use crate::checkpoint::Checkpoint;
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
    /// In packed chunks, of which so many bytes must be read.
    Packed { stored_bytes: u64 },
}

/// A run of one file, of a packed one as it unpacks. It begins at a multiple of 4 KiB, and ends at one unless the file ends
/// first.
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
            let first = extent.first_cut(bytes);
            (0..extent.cut_count(bytes)).map(move |number| {
                let start = if number == 0 { 0 } else { first + (number - 1) * bytes };
                let end = extent.bytes.min(first + number * bytes);
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
        let bytes = align_up(bytes.max(1), DIRECT_ALIGN);
        self.extents.iter().map(|extent| extent.cut_count(bytes) as usize).sum()
    }

    /// Bytes that pieces deliver, to all destinations: with padding between tensors where that moves along.
    pub fn delivered_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes * piece.rows).sum()
    }

    /// Bytes of its extents: of packed files, what they unpack to.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// Bytes that will be read for them: of packed files, those of the chunks.
    pub fn read_bytes(&self) -> u64 {
        let read = |extent: &Extent| match extent.codec {
            Codec::Plain => extent.bytes,
            Codec::Packed { stored_bytes } => stored_bytes,
        };
        self.extents.iter().map(read).sum()
    }

    /// The same plan for a checkpoint whose files are packed; no other is changed.
    pub fn over_packed(mut self, checkpoint: &Checkpoint) -> Plan {
        for extent in &mut self.extents {
            if let Some(file) = checkpoint.packed_file(extent.file) {
                let stored_bytes = file.stored_within(extent.file_offset, extent.file_offset + extent.bytes);
                extent.codec = Codec::Packed { stored_bytes };
            }
        }
        self
    }
}

impl Extent {
    /// Bytes of its first cut: those of a packed file's end where windows do, so that none is unpacked twice.
    fn first_cut(&self, bytes: u64) -> u64 {
        let first = match self.codec {
            Codec::Plain => bytes,
            Codec::Packed { .. } => bytes - self.file_offset % bytes,
        };
        first.min(self.bytes)
    }

    /// How many cuts of at most `bytes` (a multiple of 4 KiB) it comes to.
    pub(in crate::load) fn cut_count(&self, bytes: u64) -> u64 {
        match self.bytes {
            0 => 0,
            all => 1 + (all - self.first_cut(bytes)).div_ceil(bytes),
        }
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

//! A window of a partition, packed: segments of one kind of values, each cut into blocks that decode alone.

use std::ops::Range;

use crate::checkpoint::packed::format::{
    BLOCK_VALUES, CHUNK_ALIGN, DATA_ALIGN, ENTRY_BYTES, Form, HEADER_BYTES, MAGIC, SEGMENT_BYTES,
    SLACK_BYTES, STORED, Tiers, WINDOW_BYTES, ZEROS,
};
use crate::checkpoint::packed::tiers::{Escapes, Scheme};

/// A chunk is not what a packed window looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub(super) String);

/// A segment to be, or of a chunk: where it lies in the window, and how it is coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub range: Range<usize>,
    pub first_block: usize,
    pub form: Form,
    /// Absent where the form has no exponents.
    pub scheme: Option<Scheme>,
}

impl Segment {
    pub fn blocks(&self) -> usize {
        self.range.len().div_ceil(self.form.block_bytes())
    }
}

/// How a block lies in its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zeros,
    Stored,
    Coded(Escapes),
}

/// A chunk whose tables are in order: each block lies within it. What the blocks hold was not looked at.
pub struct Chunk<'c> {
    pub(super) bytes: &'c [u8],
    pub(super) segments: Vec<Segment>,
    pub(super) blocks: Vec<(usize, Kind)>,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}

impl<'c> Chunk<'c> {
    /// The chunk of a window of so many bytes, with this number in its file.
    ///
    /// # Errors
    /// [`Damaged`]: its header or tables are not those of such a chunk.
    pub fn parse(bytes: &'c [u8], number: u32, window: u64) -> Result<Chunk<'c>, Damaged> {
        let damaged = |what: String| Err(Damaged(what));
        if bytes.len() < HEADER_BYTES + SEGMENT_BYTES || !bytes.len().is_multiple_of(CHUNK_ALIGN) {
            return damaged(format!("{} bytes are no chunk", bytes.len()));
        }
        if window == 0 || window > WINDOW_BYTES || !window.is_multiple_of(DATA_ALIGN as u64) {
            return damaged(format!("{window} bytes are no window"));
        }
        if bytes[..4] != MAGIC {
            return damaged("no chunk begins here".into());
        }
        if u32_at(bytes, 4) as u64 != window || u32_at(bytes, 8) != number as usize {
            return damaged(format!(
                "chunk {} of {} bytes stands in the place of chunk {number} of {window}",
                u32_at(bytes, 8),
                u32_at(bytes, 4)
            ));
        }
        let (segments, blocks) = (u16_at(bytes, 12), u16_at(bytes, 14));
        let entries = HEADER_BYTES + SEGMENT_BYTES * segments;
        let tables = (entries + ENTRY_BYTES * blocks).next_multiple_of(DATA_ALIGN);
        if segments == 0 || tables + SLACK_BYTES > bytes.len() {
            return damaged(format!("{segments} segments and {blocks} blocks in {} bytes", bytes.len()));
        }
        let segments = Chunk::segments(&bytes[..entries], window as usize, blocks)?;
        let mut chunk = Chunk { bytes, segments, blocks: Vec::with_capacity(blocks) };
        for segment in 0..chunk.segments.len() {
            chunk.add_blocks(segment, entries, tables)?;
        }
        Ok(chunk)
    }

    fn segments(tables: &[u8], window: usize, blocks: usize) -> Result<Vec<Segment>, Damaged> {
        let (entries, _) = tables[HEADER_BYTES..].as_chunks::<SEGMENT_BYTES>();
        let mut segments = Vec::with_capacity(entries.len());
        let mut next_block = 0;
        for (number, entry) in entries.iter().enumerate() {
            let start = u32_at(entry, 0);
            let end = entries.get(number + 1).map_or(window, |next| u32_at(next, 0));
            let form = Form::from_number(entry[6]);
            let tiers = Tiers::from_number(entry[7]);
            let table = std::array::from_fn(|i| entry[8 + i]);
            let good = |form: &Form| match form {
                Form::Bytes => entry[7] == 0,
                _ => tiers.is_some() && end.wrapping_sub(start).is_multiple_of(form.block_bytes()),
            };
            let ascends = start < end && end <= window && (number > 0 || start == 0);
            let (Some(form), true) = (form.filter(good), ascends && start.is_multiple_of(DATA_ALIGN)) else {
                return Err(Damaged(format!("segment {number}, from {start} to {end}, is none")));
            };
            let scheme = tiers.map(|tiers| Scheme { tiers, table });
            let segment = Segment { range: start..end, first_block: u16_at(entry, 4), form, scheme };
            if segment.first_block != next_block {
                return Err(Damaged(format!("segment {number} does not begin at block {next_block}")));
            }
            next_block += segment.blocks();
            segments.push(segment);
        }
        match next_block == blocks {
            true => Ok(segments),
            false => Err(Damaged(format!("{blocks} blocks, and its segments have {next_block}"))),
        }
    }

    /// Reads the entries of a segment's blocks; refuses those that reach past the chunk.
    fn add_blocks(&mut self, segment: usize, entries: usize, tables: usize) -> Result<(), Damaged> {
        let Segment { range, first_block, form, scheme } = &self.segments[segment];
        let end = self.bytes.len() - SLACK_BYTES;
        for i in 0..self.segments[segment].blocks() {
            let number = first_block + i;
            let entry = &self.bytes[entries + ENTRY_BYTES * number..][..ENTRY_BYTES];
            let at = u32_at(entry, 0).saturating_mul(DATA_ALIGN);
            let (n1, n2) = (u16_at(entry, 4), u16_at(entry, 6));
            let whole = form.block_bytes();
            let (kind, bytes) = match (n1 as u16, scheme) {
                (ZEROS, _) if n2 == 0 => (Kind::Zeros, 0),
                (STORED, _) if n2 == 0 => (Kind::Stored, whole.min(range.len() - i * whole)),
                (_, Some(scheme)) if n1 <= BLOCK_VALUES && n2 <= n1 => {
                    let counted = form.rest_bytes() + scheme.tiers.counted_bytes(n1, n2);
                    (Kind::Coded(Escapes { n1, n2 }), counted)
                }
                _ => return Err(Damaged(format!("block {number} has {n1} and {n2} escapes"))),
            };
            if at < tables || at.saturating_add(bytes) > end {
                return Err(Damaged(format!("block {number} lies at byte {at}, outside of its chunk")));
            }
            self.blocks.push((at, kind));
        }
        Ok(())
    }
}

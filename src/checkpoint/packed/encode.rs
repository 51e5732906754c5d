//! Windows packed to chunks.

use std::ops::Range;

use crate::checkpoint::packed::block;
use crate::checkpoint::packed::chunk::Segment;
use crate::checkpoint::packed::format::{
    BLOCK_VALUES, CHUNK_ALIGN, DATA_ALIGN, ENTRY_BYTES, Form, HEADER_BYTES, MAGIC, SEGMENT_BYTES,
    SLACK_BYTES, STORED, TABLE, ZEROS,
};
use crate::checkpoint::packed::tiers::{Escapes, Scheme, Work};

/// Values of one form in a window, as bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub range: Range<usize>,
    pub form: Form,
}

/// Packs windows; keeps its memory from one to the next.
pub struct Encoder {
    work: Work,
    chunk: Vec<u8>,
}

/// A packed window.
pub struct Encoded<'e> {
    pub chunk: &'e [u8],
    /// Bytes of the window that were coded as values, and what they came to, by the number of their span.
    pub coded: Vec<(usize, u64, u64)>,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { work: Work::new(), chunk: Vec::new() }
    }
}

impl Encoder {
    /// Packs a window, a multiple of 16 bytes, of which these spans are values: ascending, apart, each from a multiple of 16 on.
    pub fn encode(&mut self, window: &[u8], number: u32, spans: &[Span]) -> Encoded<'_> {
        let (segments, of_span) = self.segments(window, spans);
        let blocks = segments.last().map_or(0, |last| last.first_block + last.blocks());
        self.begin(window.len(), number, &segments, blocks);
        let mut coded = Vec::new();
        for (segment, span) in segments.iter().zip(of_span) {
            let before = self.chunk.len();
            for (i, bytes) in window[segment.range.clone()].chunks(segment.form.block_bytes()).enumerate() {
                self.block(segment, segment.first_block + i, segments.len(), bytes);
            }
            if let Some(span) = span {
                coded.push((span, segment.range.len() as u64, (self.chunk.len() - before) as u64));
            }
        }
        self.chunk.resize((self.chunk.len() + SLACK_BYTES).next_multiple_of(CHUNK_ALIGN), 0);
        Encoded { chunk: &self.chunk, coded }
    }

    /// Cuts a window into segments, each with the number of the span whose values it codes.
    fn segments(&mut self, window: &[u8], spans: &[Span]) -> (Vec<Segment>, Vec<Option<usize>>) {
        let (mut segments, mut of_span): (Vec<Segment>, Vec<Option<usize>>) = Default::default();
        let mut add = |range: Range<usize>, form, scheme, span| {
            let first_block = segments.last().map_or(0, |last: &Segment| last.first_block + last.blocks());
            segments.push(Segment { range, first_block, form, scheme });
            of_span.push(span);
        };
        let mut end = 0;
        for (number, Span { range, form }) in spans.iter().enumerate() {
            let whole = range.len() / form.block_bytes() * form.block_bytes();
            if *form == Form::Bytes || whole == 0 {
                continue;
            }
            let range = range.start..range.start + whole;
            let counts = block::count(*form, &window[range.clone()], &mut self.work);
            let (scheme, bits) = Scheme::choose(&counts);
            let counted: u64 = counts.iter().sum();
            let values = (whole / form.block_bytes() * BLOCK_VALUES) as u64;
            let rest = whole / form.block_bytes() * form.rest_bytes();
            let packed = bits * values / counted.max(1) / 8 + rest as u64;
            if packed * 100 > whole as u64 * 97 {
                continue;
            }
            if end < range.start {
                add(end..range.start, Form::Bytes, None, None);
            }
            end = range.end;
            add(range, *form, Some(scheme), Some(number));
        }
        if end < window.len() {
            add(end..window.len(), Form::Bytes, None, None);
        }
        (segments, of_span)
    }

    /// Writes header and segments, and leaves room for the blocks' entries.
    fn begin(&mut self, window: usize, number: u32, segments: &[Segment], blocks: usize) {
        let chunk = &mut self.chunk;
        chunk.clear();
        chunk.extend_from_slice(&MAGIC);
        chunk.extend_from_slice(&(window as u32).to_le_bytes());
        chunk.extend_from_slice(&number.to_le_bytes());
        chunk.extend_from_slice(&(segments.len() as u16).to_le_bytes());
        chunk.extend_from_slice(&(blocks as u16).to_le_bytes());
        for segment in segments {
            chunk.extend_from_slice(&(segment.range.start as u32).to_le_bytes());
            chunk.extend_from_slice(&(segment.first_block as u16).to_le_bytes());
            chunk.push(segment.form.number());
            chunk.push(segment.scheme.map_or(0, |scheme| scheme.tiers.number()));
            chunk.extend_from_slice(&segment.scheme.map_or([0; TABLE], |scheme| scheme.table));
            chunk.extend_from_slice(&[0; 2]);
        }
        let tables = (chunk.len() + ENTRY_BYTES * blocks).next_multiple_of(DATA_ALIGN);
        chunk.resize(tables, 0);
    }

    /// Appends a block, and writes its entry.
    fn block(&mut self, segment: &Segment, number: usize, segments: usize, bytes: &[u8]) {
        let at = self.chunk.len();
        let (n1, n2) = if bytes.iter().all(|byte| *byte == 0) {
            (ZEROS, 0)
        } else {
            let coded = segment
                .scheme
                .map(|scheme| block::encode(segment.form, &scheme, bytes, &mut self.work, &mut self.chunk));
            match coded.filter(|_| self.chunk.len() - at < bytes.len()) {
                Some(Escapes { n1, n2 }) => (n1 as u16, n2 as u16),
                None => {
                    self.chunk.truncate(at);
                    self.chunk.extend_from_slice(bytes);
                    (STORED, 0)
                }
            }
        };
        self.chunk.resize(self.chunk.len().next_multiple_of(DATA_ALIGN), 0);
        let entry = HEADER_BYTES + SEGMENT_BYTES * segments + ENTRY_BYTES * number;
        self.chunk[entry..entry + 4].copy_from_slice(&((at / DATA_ALIGN) as u32).to_le_bytes());
        self.chunk[entry + 4..entry + 6].copy_from_slice(&n1.to_le_bytes());
        self.chunk[entry + 6..entry + 8].copy_from_slice(&n2.to_le_bytes());
    }
}

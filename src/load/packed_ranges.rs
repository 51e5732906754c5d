//! Packed files in the pool: cut between their chunks and kept as they lie on disk, so that they take less of it; what is
//! wanted of them is unpacked on its way out.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::checkpoint::packed::{self, Decoder, PackedFile, Within};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::gpu::scatter::Piece;
use crate::load::jobs::{PackedRead, packed_read};
use crate::load::plan::{Plan, furthest_ends};
use crate::load::pool::Ranges;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// The most that is brought to a GPU as one copy, to be unpacked there.
pub(super) const PART_BYTES: u64 = 8 << 20;

/// How a pool cuts the files of a packed checkpoint.
pub(super) struct PackedCut {
    pub ranges: Ranges,
    /// Of each file, the number of the first window of each of its ranges.
    firsts: Vec<Vec<u32>>,
}

/// Chunks that follow one another in a range of the pool, and what of them goes where.
pub(super) struct PackedPart {
    pub read: PackedRead,
    /// `from` counts from the first window's first byte.
    pub pieces: Vec<Piece>,
    /// Where in the range they lie.
    pub from: u64,
    pub bytes: u64,
}

impl PackedCut {
    /// `None` of files that are not packed, or whose chunks are longer than those of the pool.
    pub fn new(checkpoint: &Checkpoint, chunk_bytes: u64) -> Option<PackedCut> {
        let packed = checkpoint.packed.as_ref()?;
        let cuts = packed.files.iter().map(|file| runs(file, chunk_bytes)).collect::<Option<Vec<_>>>()?;
        let (ranges, firsts): (Vec<_>, Vec<_>) = cuts.into_iter().map(|cut| cut.into_iter().unzip()).unzip();
        Some(PackedCut { ranges: Ranges::at(ranges.into_iter()), firsts })
    }

    /// The range that holds a window of a file.
    fn range_of(&self, file: usize, window: u32) -> usize {
        let firsts = self.firsts.get(file).map(Vec::as_slice).unwrap_or_default();
        self.ranges.first(file) + firsts.partition_point(|first| *first <= window).saturating_sub(1)
    }

    /// The ranges that a plan needs, each with its parts.
    pub fn landings(&self, plan: &Plan, checkpoint: &Checkpoint) -> BTreeMap<usize, Vec<PackedPart>> {
        let mut found: BTreeMap<usize, Vec<PackedPart>> = BTreeMap::new();
        for extent in &plan.extents {
            let Some(file) = checkpoint.packed_file(extent.file) else { continue };
            let pieces = plan.pieces.get(extent.pieces.clone()).unwrap_or_default();
            let ends = furthest_ends(pieces);
            let windows: Vec<Within> =
                file.windows(extent.file_offset, extent.file_offset + extent.bytes).collect();
            let mut rest = windows.as_slice();
            while let Some(first) = rest.first() {
                let range = self.range_of(extent.file, first.number);
                let start = first.stored.start & !(DIRECT_ALIGN - 1);
                let belongs = |window: &&Within| {
                    let is_first = window.number == first.number;
                    let fits = is_first || window.stored.end - start <= PART_BYTES;
                    fits && self.range_of(extent.file, window.number) == range
                };
                let (now, later) = rest.split_at(rest.iter().take_while(belongs).count());
                rest = later;
                let bytes = now.last().map_or(0, |last| last.stored.end - start);
                let from = start - self.ranges.spot(range).offset;
                if let Some((read, pieces)) = packed_read(checkpoint, extent, (pieces, &ends), now, start)
                    && !pieces.is_empty()
                {
                    found.entry(range).or_default().push(PackedPart { read, pieces, from, bytes });
                }
            }
        }
        found
    }
}

/// Runs of whole chunks of a file, from page to page, each no longer than a chunk of the pool, with the number of its first
/// window. `None` where a single one is longer.
fn runs(file: &PackedFile, most_bytes: u64) -> Option<Vec<(Range<u64>, u32)>> {
    let mut runs: Vec<(Range<u64>, u32)> = Vec::new();
    for window in file.windows(0, u64::MAX) {
        let start = window.stored.start & !(DIRECT_ALIGN - 1);
        let page_end = align_up(window.stored.end, DIRECT_ALIGN);
        let end = page_end.min(file.stored_bytes());
        if page_end - start > most_bytes {
            return None;
        }
        match runs.last_mut() {
            Some((run, _)) if page_end - run.start <= most_bytes => run.end = end,
            _ => runs.push((start..end, window.number)),
        }
    }
    Some(runs)
}

impl PackedPart {
    /// Its bytes in the memory of the range.
    pub fn of<'m>(&self, range: &'m [u8]) -> &'m [u8] {
        &range[self.from as usize..][..self.bytes as usize]
    }

    /// Unpacks bytes from `from` on, counted as pieces count, out of its own bytes.
    pub fn unpack(
        &self,
        own: &[u8],
        decoder: &mut Decoder,
        from: u64,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let to = from + out.len() as u64;
        for (window, within) in self.read.within() {
            let window_end = window.start + u64::from(window.window_bytes);
            let (start, end) = (from.max(window.start), to.min(window_end));
            if start >= end {
                continue;
            }
            let within = Within { bytes: start - window.start..end - window.start, ..within };
            let chunk = &own[window.from as usize..][..window.bytes as usize];
            let out = &mut out[(start - from) as usize..(end - from) as usize];
            packed::decode(decoder, &within, chunk, out)
                .map_err(|why| packed::damaged(&self.read.path, &within, &why.to_string()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::packed::WINDOW_BYTES;
    use crate::os::digest::Digest;

    proptest! {
        /// Each chunk lies whole in the run that its number says, and runs begin and end with pages.
        #[test]
        fn runs_hold_whole_chunks(
            chunks in prop::collection::vec(1u64..3000, 1..60),
            last in 1u64..=WINDOW_BYTES,
            most_pages in 1u64..80,
        ) {
            let decoded = (chunks.len() as u64 - 1) * WINDOW_BYTES + last;
            let file = PackedFile::new(decoded, chunks.iter().map(|units| (units * 64, Digest(0))));
            let most = most_pages * DIRECT_ALIGN;
            let span = |window: &Within| {
                align_up(window.stored.end, DIRECT_ALIGN) - (window.stored.start & !(DIRECT_ALIGN - 1))
            };
            let longest = file.windows(0, u64::MAX).map(|window| span(&window)).max();
            let Some(runs) = runs(&file, most) else {
                prop_assert!(longest > Some(most));
                return Ok(());
            };
            for window in file.windows(0, u64::MAX) {
                let at = runs.partition_point(|(_, first)| *first <= window.number) - 1;
                let run = &runs[at].0;
                prop_assert!(run.start <= window.stored.start && window.stored.end <= run.end);
            }
            for (run, _) in &runs {
                prop_assert!(run.start % DIRECT_ALIGN == 0 && align_up(run.end, DIRECT_ALIGN) - run.start <= most);
                prop_assert!(run.end % DIRECT_ALIGN == 0 || run.end == file.stored_bytes());
            }
        }
    }
}

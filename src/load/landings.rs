//! Where the bytes of file ranges land: a plan, seen from the pool.

use std::collections::BTreeMap;

use crate::load::plan::{Piece, Plan, furthest_ends, pieces_within};
use crate::load::pool::Ranges;

/// The ranges that a plan needs, each with what of it goes where: `from` counts from the range's first byte. In the order of
/// ranges, and within one by destination, so that what lies side by side on both sides stays so.
pub fn landings(plan: &Plan, ranges: &Ranges) -> BTreeMap<usize, Vec<Piece>> {
    let mut found: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
    for extent in &plan.extents {
        // They ascend in `from`, which counts from the extent's first byte.
        let pieces = plan.pieces.get(extent.pieces.clone()).unwrap_or_default();
        let ends = furthest_ends(pieces);
        let extent_end = extent.file_offset + extent.bytes;
        for range in ranges.of(extent.file, extent.file_offset, extent.bytes) {
            let spot = ranges.spot(range);
            let start = spot.offset.max(extent.file_offset);
            let end = (spot.offset + spot.bytes).min(extent_end);
            let here = pieces_within(pieces, &ends, start - extent.file_offset, end - extent.file_offset);
            let shift = start - spot.offset;
            if !here.is_empty() {
                let here = here.into_iter().map(|piece| Piece { from: piece.from + shift, ..piece });
                found.entry(range).or_default().extend(here);
            }
        }
    }
    found
}

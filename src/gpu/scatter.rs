//! Where the bytes of one buffer land: pieces of it, each in a place of a destination.

use std::sync::Arc;

use crate::gpu::memory::DeviceSlice;
use crate::gpu::{Gpu, GpuError};

/// Bytes of one buffer that land in one place. Several rows where they are cut out of wider ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where its first byte is, from the buffer's first.
    pub from: u64,
    /// Bytes of a row.
    pub bytes: u64,
    /// Which destination.
    pub destination: usize,
    /// Where its first byte lands, from the destination's first.
    pub to: u64,
    pub rows: u64,
    /// Bytes from the start of a row to that of the next, in the buffer and in the destination.
    pub from_stride: u64,
    pub to_stride: u64,
}

impl Piece {
    /// One row.
    pub fn run(from: u64, bytes: u64, destination: usize, to: u64) -> Piece {
        Piece { from, bytes, destination, to, rows: 1, from_stride: bytes, to_stride: bytes }
    }

    /// One past its last byte in the buffer; `None` where that is no number.
    pub fn from_end(&self) -> Option<u64> {
        end(self.from, self.bytes, self.rows, self.from_stride)
    }

    /// One past its last byte in the destination; `None` where that is no number.
    pub fn to_end(&self) -> Option<u64> {
        end(self.to, self.bytes, self.rows, self.to_stride)
    }

    /// What of it lies in `[start, end)` of the buffer, counted from `start`: a part of a row, whole rows, a part of one.
    pub fn within(&self, start: u64, end: u64) -> Vec<Piece> {
        let (mut row, mut parts) = (0, Vec::new());
        while row < self.rows {
            let row_from = self.from + row * self.from_stride;
            let (low, high) = (row_from.max(start), (row_from + self.bytes).min(end));
            if row_from >= end {
                break;
            }
            if high <= low {
                row += 1;
                // Rows that end before the window are passed over at once.
                if row_from + self.bytes <= start && self.from_stride > 0 {
                    row = row.max(
                        (start.saturating_sub(self.from + self.bytes) / self.from_stride).min(self.rows),
                    );
                }
                continue;
            }
            let to = self.to + row * self.to_stride + (low - row_from);
            let whole = low == row_from && high == row_from + self.bytes;
            let rows = match (whole, end.saturating_sub(row_from + self.bytes).checked_div(self.from_stride))
            {
                (true, Some(more)) => (1 + more).min(self.rows - row),
                _ => 1,
            };
            parts.push(Piece { from: low - start, bytes: high - low, to, rows, ..*self });
            row += rows;
        }
        parts
    }

    /// Its rows, each as a run.
    pub fn runs(self) -> impl Iterator<Item = Piece> {
        (0..self.rows).map(move |row| {
            Piece::run(
                self.from + row * self.from_stride,
                self.bytes,
                self.destination,
                self.to + row * self.to_stride,
            )
        })
    }
}

fn end(start: u64, bytes: u64, rows: u64, stride: u64) -> Option<u64> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(start)?.checked_add(bytes)
}

/// The memory of a load's destinations; of a replicated one there are several copies.
pub struct Targets<'a> {
    destinations: Vec<Vec<(Arc<Gpu>, DeviceSlice<'a>)>>,
}

impl<'a> Targets<'a> {
    /// By destination, each with its copies.
    pub fn new(destinations: Vec<Vec<(Arc<Gpu>, DeviceSlice<'a>)>>) -> Targets<'a> {
        Targets { destinations }
    }

    /// The copies of a piece's destination, each with the part of it where the piece lands, from its first byte to its
    /// last. An error where the piece does not fit, or its destination is none of these.
    pub fn of(&self, piece: &Piece) -> Result<impl Iterator<Item = (&Arc<Gpu>, DeviceSlice<'a>)>, GpuError> {
        let copies = self.destinations.get(piece.destination).map(Vec::as_slice).unwrap_or_default();
        let end = piece.to_end();
        for (gpu, slice) in copies {
            if end.is_none_or(|end| end > slice.bytes()) {
                let what =
                    format!("{} bytes at {} of {}; please report this", piece.bytes, piece.to, slice.bytes());
                return Err(gpu.error("copy to a place that its destination has not", &what));
            }
        }
        let bytes = end.unwrap_or_default() - piece.to;
        Ok(copies.iter().map(move |(gpu, slice)| (gpu, slice.part(piece.to, bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every byte of a piece: where it comes from and where it lands.
    fn bytes_of(piece: &Piece) -> Vec<(u64, u64)> {
        piece.runs().flat_map(|run| (0..run.bytes).map(move |i| (run.from + i, run.to + i))).collect()
    }

    proptest! {
        #[test]
        fn windows_that_follow_each_other_have_every_byte_of_a_piece_once(
            from in 0u64..50, bytes in 1u64..40, rows in 1u64..12, more_from in 0u64..30, more_to in 0u64..9,
            window in 1u64..90,
        ) {
            let piece = Piece {
                rows, from_stride: bytes + more_from, to_stride: bytes + more_to,
                ..Piece::run(from, bytes, 0, 7)
            };
            let last = piece.from_end().unwrap();
            let mut found = Vec::new();
            for start in (0..last).step_by(window as usize) {
                for part in piece.within(start, start + window) {
                    prop_assert!(part.from_end().unwrap() <= window);
                    prop_assert!(part.to_end().unwrap() <= piece.to_end().unwrap());
                    found.extend(bytes_of(&part).into_iter().map(|(f, t)| (f + start, t)));
                }
            }
            found.sort();
            prop_assert_eq!(found, bytes_of(&piece));
        }
    }

    #[test]
    fn whole_rows_stay_together() {
        let piece = Piece { rows: 100, from_stride: 64, to_stride: 16, ..Piece::run(8, 16, 0, 0) };
        let parts = piece.within(0, 6400);
        assert_eq!(parts, [piece]);
        let parts = piece.within(80, 80 + 64 * 10);
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        assert_eq!(rows, [1, 9, 1], "the rest of a row, whole ones, and the beginning of one: {parts:?}");
    }
}

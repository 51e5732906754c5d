//! Any ranges of a checkpoint, in any order, to any places: slices of tensors, and memory that the caller laid out.

use anyhow::{Result, bail};

use crate::checkpoint::DataFile;
use crate::load::plan::extents::{Codec, Extent, GAP_BYTES, Piece, Plan};
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Rows of a checkpoint's bytes, and the place where they come to lie one behind the other. One row is a plain range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Where its first byte is in the checkpoint: its files laid end to end.
    pub from: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    pub rows: u64,
    /// Bytes from the start of a row to that of the next in the checkpoint.
    pub stride_bytes: u64,
    /// Which destination, and where in it.
    pub destination: usize,
    pub to: u64,
}

impl Wanted {
    /// Bytes that it brings.
    pub fn bytes(&self) -> u64 {
        self.row_bytes.saturating_mul(self.rows)
    }

    fn piece(&self) -> Piece {
        Piece {
            from: self.from,
            bytes: self.row_bytes,
            destination: self.destination,
            to: self.to,
            rows: self.rows,
            from_stride: self.stride_bytes,
            to_stride: self.row_bytes,
        }
    }
}

/// A destination's size, and the lane that fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destined {
    pub bytes: u64,
    pub lane: usize,
}

impl Plan {
    /// A plan for these deliveries, which reads each byte once, however often it is delivered (at the borders of what is
    /// wanted up to a page more). Refuses what lies outside the files or a destination, and two that would write the same
    /// byte. It has no places: who asked knows them.
    pub fn deliver(files: &[DataFile], deliveries: &[Wanted], destined: &[Destined]) -> Result<Plan> {
        check(files, deliveries, destined)?;
        let mut plan = Plan {
            extents: Vec::new(),
            pieces: Vec::new(),
            lanes: destined.iter().map(|destination| destination.lane + 1).max().unwrap_or(0),
            destination_bytes: destined.iter().map(|destination| destination.bytes).collect(),
            places: Vec::new(),
        };
        let mut pieces: Vec<Piece> =
            deliveries.iter().filter(|d| d.bytes() > 0).flat_map(|d| near_rows(d.piece())).collect();
        pieces.sort_unstable_by_key(|piece| (piece.from, piece.from_end(), piece.destination, piece.to));
        let mut rest = pieces.as_slice();
        for (number, file) in files.iter().enumerate() {
            // Ranges may cross files: what goes on in the next is met again there.
            let here = rest.partition_point(|piece| piece.from < file.end());
            let mut inside: Vec<Piece> =
                rest[..here].iter().flat_map(|piece| piece.within(file.base, file.end())).collect();
            inside.sort_unstable_by_key(|piece| piece.from);
            plan.add_pieces(number, file, &inside, destined);
            let first_open =
                rest[..here].iter().position(|piece| piece.from_end().is_some_and(|end| end > file.end()));
            rest = &rest[first_open.unwrap_or(here)..];
        }
        Ok(plan)
    }

    /// Adds a file's pieces, which ascend: an extent for each run of them that lie close together and are of one lane.
    fn add_pieces(&mut self, file: usize, data: &DataFile, pieces: &[Piece], destined: &[Destined]) {
        let mut first = 0;
        let mut run_end = 0;
        let lane = |piece: &Piece| destined[piece.destination].lane;
        for (i, piece) in pieces.iter().enumerate() {
            let is_near = piece.from <= run_end + GAP_BYTES && lane(piece) == lane(&pieces[first]);
            // What overlaps is read once, whoever wants it.
            if i > first && !is_near && piece.from >= run_end {
                self.add_extent(file, data, &pieces[first..i], run_end, destined);
                first = i;
            }
            run_end = piece.from_end().unwrap_or(u64::MAX).max(run_end);
        }
        if first < pieces.len() {
            self.add_extent(file, data, &pieces[first..], run_end, destined);
        }
    }

    fn add_extent(
        &mut self,
        file: usize,
        data: &DataFile,
        pieces: &[Piece],
        end: u64,
        destined: &[Destined],
    ) {
        let file_offset = pieces[0].from & !(DIRECT_ALIGN - 1);
        let bytes = align_up(end, DIRECT_ALIGN).min(data.bytes) - file_offset;
        let first_piece = self.pieces.len();
        for piece in pieces {
            let piece = Piece { from: piece.from - file_offset, ..*piece };
            match self.pieces[first_piece..].last_mut() {
                Some(last) if follows(last, &piece) => {
                    *last = Piece::run(last.from, last.bytes + piece.bytes, last.destination, last.to);
                }
                _ => self.pieces.push(piece),
            }
        }
        let lane = destined[pieces[0].destination].lane;
        let pieces = first_piece..self.pieces.len();
        self.extents.push(Extent { file, file_offset, bytes, codec: Codec::Plain, lane, pieces });
    }
}

/// Whether a run goes on where the last one ends, on both sides.
fn follows(last: &Piece, next: &Piece) -> bool {
    (last.rows, next.rows) == (1, 1)
        && last.destination == next.destination
        && last.from + last.bytes == next.from
        && last.to + last.bytes == next.to
}

/// Rows that lie far apart are read one by one, others with what lies between them.
fn near_rows(piece: Piece) -> Vec<Piece> {
    let whole = piece.from_stride == piece.bytes;
    match piece.rows > 1 && (whole || piece.from_stride - piece.bytes > GAP_BYTES) {
        true if whole => vec![Piece::run(piece.from, piece.bytes * piece.rows, piece.destination, piece.to)],
        true => piece.runs().collect(),
        false => vec![piece],
    }
}

fn check(files: &[DataFile], deliveries: &[Wanted], destined: &[Destined]) -> Result<()> {
    let end = files.last().map_or(0, DataFile::end);
    let mut written: Vec<(usize, u64, u64)> = Vec::with_capacity(deliveries.len());
    for (number, delivery) in deliveries.iter().enumerate() {
        let Wanted { from, rows, row_bytes, stride_bytes, destination, to } = *delivery;
        let bytes = rows.checked_mul(row_bytes);
        if rows > 1 && stride_bytes < row_bytes {
            bail!("range {number}: rows of {row_bytes} bytes that begin {stride_bytes} apart overlap");
        }
        if bytes.is_none_or(|bytes| bytes > 0 && delivery.piece().from_end().is_none_or(|last| last > end)) {
            let what = match rows {
                1 => format!("{row_bytes} bytes"),
                _ => format!("{rows} rows of {row_bytes} bytes"),
            };
            bail!("range {number}: {what} from byte {from} on, and the checkpoint has {end} bytes");
        }
        let Some(room) = destined.get(destination) else {
            bail!("range {number}: it goes to memory {destination}, and there are {}", destined.len())
        };
        let bytes = bytes.unwrap_or_default();
        match to.checked_add(bytes) {
            Some(last) if last <= room.bytes => written.push((destination, to, last)),
            _ => bail!(
                "range {number}: its {bytes} bytes go to byte {to} of memory {destination}, which has {} bytes",
                room.bytes
            ),
        }
    }
    written.retain(|(_, from, to)| from < to);
    written.sort_unstable();
    match written.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
        Some(pair) => {
            bail!(
                "two ranges go to byte {} of memory {}: one would overwrite the other",
                pair[1].1,
                pair[1].0
            )
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::plan::Cut;

    fn files(sizes: &[u64]) -> Vec<DataFile> {
        let mut base = 0;
        let file = |(i, bytes): (usize, &u64)| {
            base += bytes;
            let path = format!("f{i}").into();
            DataFile { path, base: base - bytes, bytes: *bytes, header_bytes: 0, stamp: Default::default() }
        };
        sizes.iter().enumerate().map(file).collect()
    }

    /// Rows laid out one behind the other in destinations, with gaps.
    fn any_deliveries() -> impl Strategy<Value = Vec<(u64, u64, u64, u64, usize, u64)>> {
        let one = (0u64..200_000, 1u64..3000, 1u64..6, 0u64..90_000, 0usize..3, 0u64..40);
        prop::collection::vec(one, 0..25)
    }

    proptest! {
        /// Moves every byte as the plan says, in memory, and looks where it came to be.
        #[test]
        fn every_byte_arrives_where_it_was_asked_and_is_read_once(
            sizes in prop::collection::vec(1u64..300_000, 1..4), asked in any_deliveries(), lanes in 1usize..3,
            cut_pages in 1u64..9,
        ) {
            let files = files(&sizes);
            let end: u64 = sizes.iter().sum();
            let mut taken = [0u64; 3];
            let mut deliveries = Vec::new();
            for (from, row_bytes, rows, more, destination, gap) in asked {
                let delivery = Wanted {
                    from, row_bytes, rows, stride_bytes: row_bytes + more, destination, to: taken[destination] + gap,
                };
                if delivery.piece().from_end().unwrap() <= end {
                    taken[destination] = delivery.to + delivery.bytes();
                    deliveries.push(delivery);
                }
            }
            let destined: Vec<Destined> =
                taken.iter().enumerate().map(|(i, bytes)| Destined { bytes: *bytes, lane: i % lanes }).collect();
            let plan = Plan::deliver(&files, &deliveries, &destined).unwrap();
            let mut memory: Vec<Vec<Option<u64>>> = taken.iter().map(|bytes| vec![None; *bytes as usize]).collect();
            for cut in plan.cuts(cut_pages * DIRECT_ALIGN) {
                let start = files[cut.file].base + cut.file_offset;
                for run in cut.pieces.iter().flat_map(|piece| piece.runs()) {
                    prop_assert!(run.from + run.bytes <= cut.bytes);
                    for byte in 0..run.bytes {
                        let room = &mut memory[run.destination][(run.to + byte) as usize];
                        prop_assert_eq!(*room, None, "written twice");
                        *room = Some(start + run.from + byte);
                    }
                }
            }
            for delivery in &deliveries {
                let found = &memory[delivery.destination][delivery.to as usize..][..delivery.bytes() as usize];
                let wanted = (0..delivery.rows).flat_map(|row| {
                    let from = delivery.from + row * delivery.stride_bytes;
                    from..from + delivery.row_bytes
                });
                prop_assert!(found.iter().copied().eq(wanted.map(Some)));
            }
            let delivered: u64 = deliveries.iter().map(Wanted::bytes).sum();
            prop_assert_eq!(memory.iter().flatten().flatten().count() as u64, delivered);
            read_once(&plan, &files)?;
        }
    }

    /// But for the page that two neighbours share.
    fn read_once(plan: &Plan, files: &[DataFile]) -> Result<(), TestCaseError> {
        for (number, file) in files.iter().enumerate() {
            let mut reads: Vec<Cut> = plan.cuts(1 << 20).filter(|cut| cut.file == number).collect();
            reads.sort_by_key(|cut| cut.file_offset);
            for pair in reads.windows(2) {
                prop_assert!(pair[0].file_offset + pair[0].bytes <= pair[1].file_offset + DIRECT_ALIGN);
            }
            for cut in reads {
                prop_assert_eq!(cut.file_offset % DIRECT_ALIGN, 0);
                let end = cut.file_offset + cut.bytes;
                prop_assert!(end == file.bytes || (end < file.bytes && cut.bytes % DIRECT_ALIGN == 0));
            }
        }
        Ok(())
    }

    fn range(from: u64, bytes: u64, destination: usize, to: u64) -> Wanted {
        Wanted { from, row_bytes: bytes, rows: 1, stride_bytes: bytes, destination, to }
    }

    #[test]
    fn what_two_want_is_read_once() {
        let destined = [Destined { bytes: 1000, lane: 0 }, Destined { bytes: 1000, lane: 1 }];
        let both = [range(5000, 1000, 0, 0), range(5000, 1000, 1, 0)];
        let plan = Plan::deliver(&files(&[20_000]), &both, &destined).unwrap();
        assert_eq!((plan.extents.len(), plan.bytes(), plan.pieces.len()), (1, 4096, 2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let destined = [Destined { bytes: 1000, lane: 0 }];
        let why = |deliveries: &[Wanted]| {
            Plan::deliver(&files(&[5000]), deliveries, &destined).unwrap_err().to_string()
        };
        assert!(
            why(&[range(4500, 501, 0, 0)])
                .contains("range 0: 501 bytes from byte 4500 on, and the checkpoint has 5000 bytes")
        );
        assert!(why(&[range(0, 10, 0, 991)]).contains("which has 1000 bytes"));
        assert!(why(&[range(0, 10, 1, 0)]).contains("there are 1"));
        assert!(why(&[range(0, 10, 0, 0), range(100, 10, 0, 9)]).contains("overwrite"));
        assert!(why(&[range(0, u64::MAX, 0, 5)]).contains("range 0"));
        let rows = Wanted { rows: 3, stride_bytes: 5, ..range(0, 10, 0, 0) };
        assert!(why(&[rows]).contains("overlap"));
        let many = Wanted { rows: u64::MAX, stride_bytes: 20, ..range(0, 10, 0, 0) };
        assert!(why(&[many]).contains("rows of 10 bytes"));
    }
}

//! Which files a checkpoint's bytes lie in, in which state, and the ranges that the pool cuts them into.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::{DataFile, Stamp, malformed};

/// A checkpoint's files, and the state in which it was opened.
#[derive(Clone)]
pub struct Files {
    /// Without links, so that a model is the same by each of its names.
    paths: Arc<[PathBuf]>,
    stamps: Vec<Stamp>,
}

impl Files {
    /// Looks at the files: a mount that hangs is waited for here, and not under anybody's lock.
    pub fn of(files: &[DataFile]) -> Files {
        let path = |file: &DataFile| file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
        let paths: Arc<[PathBuf]> = files.iter().map(path).collect();
        let stamp = |(file, path): (&DataFile, &PathBuf)| match file.stamp == Stamp::default() {
            true => path.metadata().map(|about| Stamp::of(&about)).unwrap_or_default(),
            false => file.stamp,
        };
        let stamps = files.iter().zip(paths.iter()).map(stamp).collect();
        Files { paths, stamps }
    }

    /// Refuses where a file is another than when the checkpoint was opened. The path, for [`changed`].
    pub fn check(&self) -> Result<(), PathBuf> {
        let same = |(path, stamp): (&PathBuf, &Stamp)| {
            path.metadata().is_ok_and(|about| Stamp::of(&about) == *stamp && *stamp != Stamp::default())
        };
        match self.paths.iter().zip(&self.stamps).find(|found| !same(*found)) {
            Some((path, _)) => Err(path.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn paths(&self) -> &Arc<[PathBuf]> {
        &self.paths
    }

    pub(super) fn is_as(&self, stamps: &[Stamp]) -> bool {
        self.stamps == stamps
    }

    pub(super) fn stamps(&self) -> Vec<Stamp> {
        self.stamps.clone()
    }
}

/// The error of a load whose files changed under it.
pub fn changed(path: &Path) -> anyhow::Error {
    malformed(path, "changed since the checkpoint was opened: wait until nobody writes it, and open it again")
}

/// A range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub file: usize,
    pub offset: u64,
    /// A chunk's, or fewer where the file ends.
    pub bytes: u64,
}

/// How files are cut: each into ranges of at most a chunk's bytes, numbered through.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// The number of each file's first range, and how it is cut.
    files: Vec<(usize, Cut)>,
    count: usize,
}

#[derive(Debug, Clone)]
enum Cut {
    /// From the first byte on, into ranges of one size.
    Even { file_bytes: u64, chunk_bytes: u64 },
    /// Into these, which may share a page where one ends and the next begins.
    At(Vec<Range<u64>>),
}

impl Cut {
    fn count(&self) -> usize {
        match self {
            Cut::Even { file_bytes, chunk_bytes } => file_bytes.div_ceil(*chunk_bytes) as usize,
            Cut::At(ranges) => ranges.len(),
        }
    }

    /// Offset and bytes of one of its ranges; past the last, none.
    fn range(&self, number: usize) -> (u64, u64) {
        match self {
            Cut::Even { file_bytes, chunk_bytes } => {
                let offset = (number as u64).saturating_mul(*chunk_bytes).min(*file_bytes);
                (offset, (*chunk_bytes).min(file_bytes - offset))
            }
            Cut::At(ranges) => {
                ranges.get(number).map_or((0, 0), |range| (range.start, range.end - range.start))
            }
        }
    }
}

impl Ranges {
    /// Of files of so many bytes, each from its first byte on into ranges of `chunk_bytes`, which is at least 1.
    pub fn new(file_bytes: impl Iterator<Item = u64>, chunk_bytes: u64) -> Ranges {
        let chunk_bytes = chunk_bytes.max(1);
        Ranges::of_cuts(file_bytes.map(|file_bytes| Cut::Even { file_bytes, chunk_bytes }))
    }

    /// Of files that are cut into these ranges, none longer than a chunk.
    pub fn at(files: impl Iterator<Item = Vec<Range<u64>>>) -> Ranges {
        Ranges::of_cuts(files.map(Cut::At))
    }

    fn of_cuts(cuts: impl Iterator<Item = Cut>) -> Ranges {
        let (mut count, mut files) = (0, Vec::new());
        for cut in cuts {
            let first = count;
            count += cut.count();
            files.push((first, cut));
        }
        Ranges { files, count }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where a range lies; past the last, nowhere.
    pub fn spot(&self, range: usize) -> Spot {
        // The last file that begins at or before it: files without bytes have no range.
        let file = self.files.partition_point(|(first, _)| *first <= range).saturating_sub(1);
        let Some((first, cut)) = self.files.get(file) else { return Spot { file: 0, offset: 0, bytes: 0 } };
        let (offset, bytes) = cut.range(range - first);
        Spot { file, offset, bytes }
    }

    /// The number of a file's first range.
    pub fn first(&self, file: usize) -> usize {
        self.files.get(file).map_or(self.count, |(first, _)| *first)
    }

    /// The ranges that hold these bytes of a file.
    pub fn of(&self, file: usize, offset: u64, bytes: u64) -> Range<usize> {
        let Some((first, cut)) = self.files.get(file) else { return 0..0 };
        let end = offset.saturating_add(bytes);
        let numbers = match cut {
            Cut::Even { file_bytes, chunk_bytes } => {
                let end = end.min(*file_bytes);
                if offset < end { offset / chunk_bytes..(end - 1) / chunk_bytes + 1 } else { 0..0 }
            }
            Cut::At(ranges) => {
                let from = ranges.partition_point(|range| range.end <= offset) as u64;
                let to = ranges.partition_point(|range| range.start < end) as u64;
                if offset < end { from..to.max(from) } else { 0..0 }
            }
        };
        first + numbers.start as usize..first + numbers.end as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a look at each byte.
        #[test]
        fn ranges_cover_each_byte_once(sizes in prop::collection::vec(0u64..60, 0..6), chunk in 1u64..20) {
            let ranges = Ranges::new(sizes.iter().copied(), chunk);
            let mut found: Vec<Vec<usize>> = sizes.iter().map(|bytes| vec![0; *bytes as usize]).collect();
            for range in 0..ranges.count() {
                let spot = ranges.spot(range);
                prop_assert!(spot.bytes > 0 && spot.bytes <= chunk && spot.offset.is_multiple_of(chunk));
                for byte in spot.offset..spot.offset + spot.bytes {
                    found[spot.file][byte as usize] += 1;
                    prop_assert_eq!(ranges.of(spot.file, byte, 1), range..range + 1);
                }
            }
            prop_assert!(found.iter().flatten().all(|times| *times == 1));
            for (file, bytes) in sizes.iter().enumerate() {
                let all = ranges.of(file, 0, u64::MAX);
                prop_assert_eq!(all.len() as u64, bytes.div_ceil(chunk));
                prop_assert!(ranges.of(file, *bytes, 9).is_empty() && ranges.of(file, 0, 0).is_empty());
            }
            prop_assert!(ranges.of(sizes.len(), 0, 1).is_empty());
        }

        /// Of ranges that were given, too, of which two may share bytes.
        #[test]
        fn ranges_that_were_given_are_found_by_each_of_their_bytes(
            files in prop::collection::vec(prop::collection::vec((1u64..20, 0u64..5), 0..6), 0..4)
        ) {
            let cut = |file: &Vec<(u64, u64)>| {
                // Each begins behind the one before, and ends behind its end.
                let mut ranges: Vec<Range<u64>> = Vec::new();
                for (bytes, shared) in file {
                    let (least, end) = ranges.last().map_or((0, 0), |last| (last.start + 1, last.end));
                    ranges.push(end.saturating_sub(*shared).max(least)..end + bytes);
                }
                ranges
            };
            let cuts: Vec<Vec<Range<u64>>> = files.iter().map(cut).collect();
            let ranges = Ranges::at(cuts.iter().cloned());
            prop_assert_eq!(ranges.count(), cuts.iter().map(Vec::len).sum::<usize>());
            let mut range = 0;
            for (file, cut) in cuts.iter().enumerate() {
                prop_assert_eq!(ranges.first(file), range);
                for wanted in cut {
                    let spot = ranges.spot(range);
                    prop_assert_eq!((spot.file, spot.offset, spot.bytes), (file, wanted.start, wanted.end - wanted.start));
                    for byte in wanted.clone() {
                        prop_assert!(ranges.of(file, byte, 1).contains(&range));
                    }
                    range += 1;
                }
            }
        }
    }
}

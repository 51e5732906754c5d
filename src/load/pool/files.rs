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

/// How files are cut: each from its first byte on, into ranges of a chunk's bytes, numbered through.
#[derive(Debug, Clone)]
pub struct Ranges {
    chunk_bytes: u64,
    /// Of each file: the number of its first range, and its bytes.
    files: Vec<(usize, u64)>,
    count: usize,
}

impl Ranges {
    /// Of files of so many bytes; `chunk_bytes` is at least 1.
    pub fn new(file_bytes: impl Iterator<Item = u64>, chunk_bytes: u64) -> Ranges {
        let chunk_bytes = chunk_bytes.max(1);
        let mut count = 0;
        let mut files = Vec::new();
        for bytes in file_bytes {
            files.push((count, bytes));
            count += bytes.div_ceil(chunk_bytes) as usize;
        }
        Ranges { chunk_bytes, files, count }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where a range lies; past the last, nowhere.
    pub fn spot(&self, range: usize) -> Spot {
        // The last file that begins at or before it: files without bytes have no range.
        let file = self.files.partition_point(|(first, _)| *first <= range).saturating_sub(1);
        let (first, file_bytes) = self.files.get(file).copied().unwrap_or_default();
        let offset = ((range - first) as u64).saturating_mul(self.chunk_bytes).min(file_bytes);
        Spot { file, offset, bytes: self.chunk_bytes.min(file_bytes - offset) }
    }

    /// The ranges that hold these bytes of a file.
    pub fn of(&self, file: usize, offset: u64, bytes: u64) -> Range<usize> {
        let Some((first, file_bytes)) = self.files.get(file) else { return 0..0 };
        let end = offset.saturating_add(bytes).min(*file_bytes);
        if offset >= end {
            return *first..*first;
        }
        let number = |offset: u64| first + (offset / self.chunk_bytes) as usize;
        number(offset)..number(end - 1) + 1
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
    }
}

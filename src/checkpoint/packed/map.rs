//! Where the bytes of unpacked files are: which chunk of a packed file holds them, and where it lies.

use std::ops::Range;

use crate::checkpoint::packed::format::WINDOW_BYTES;
use crate::os::digest::Digest;

/// The files of a packed checkpoint, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub files: Vec<PackedFile>,
}

/// One file of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Bytes that it unpacks to.
    decoded_bytes: u64,
    /// Where each chunk begins in the file, and where the last one ends.
    starts: Vec<u64>,
    /// Of each chunk.
    pub digests: Vec<Digest>,
}

/// Bytes of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    /// The number of its chunk.
    pub number: u32,
    /// Where in the file that lies.
    pub stored: Range<u64>,
    /// Bytes of the window.
    pub window_bytes: u64,
    /// The bytes, from the window's start.
    pub bytes: Range<u64>,
}

impl PackedFile {
    /// A file that unpacks to so many bytes, of chunks of these lengths.
    pub fn new(decoded_bytes: u64, chunks: impl IntoIterator<Item = (u64, Digest)>) -> PackedFile {
        let (mut starts, mut digests, mut end) = (vec![0], Vec::new(), 0u64);
        for (bytes, digest) in chunks {
            end = end.saturating_add(bytes);
            starts.push(end);
            digests.push(digest);
        }
        PackedFile { decoded_bytes, starts, digests }
    }

    /// Bytes of the file.
    pub fn stored_bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> usize {
        self.digests.len()
    }

    /// The windows that hold the unpacked bytes `[from, to)`, those past the end left out.
    pub fn windows(&self, from: u64, to: u64) -> impl Iterator<Item = Within> + '_ {
        let to = to.min(self.decoded_bytes);
        let numbers = if from < to { from / WINDOW_BYTES..to.div_ceil(WINDOW_BYTES) } else { 0..0 };
        numbers.map(move |number| {
            let start = number * WINDOW_BYTES;
            let window_bytes = WINDOW_BYTES.min(self.decoded_bytes - start);
            Within {
                number: number as u32,
                stored: self.starts[number as usize]..self.starts[number as usize + 1],
                window_bytes,
                bytes: from.max(start) - start..to.min(start + window_bytes) - start,
            }
        })
    }

    /// Bytes of the chunks that hold `[from, to)`: what must be read for them.
    pub fn stored_within(&self, from: u64, to: u64) -> u64 {
        self.windows(from, to).map(|window| window.stored.end - window.stored.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_by_a_division_and_a_sum() {
        let last = 8192;
        let chunks = [(640, Digest(1)), (704, Digest(2)), (128, Digest(3))];
        let file = PackedFile::new(2 * WINDOW_BYTES + last, chunks);
        assert_eq!((file.stored_bytes(), file.chunks()), (1472, 3));
        let all: Vec<Within> = file.windows(100, u64::MAX).collect();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].bytes.clone(), all[0].stored.clone()), (100..WINDOW_BYTES, 0..640));
        assert_eq!((all[2].number, all[2].window_bytes, all[2].bytes.clone()), (2, last, 0..last));
        assert_eq!(file.windows(WINDOW_BYTES, WINDOW_BYTES + 1).collect::<Vec<_>>()[0].bytes, 0..1);
        assert_eq!(file.windows(7, 7).count() + file.windows(1 << 40, 1 << 41).count(), 0);
        assert_eq!(file.stored_within(WINDOW_BYTES - 1, WINDOW_BYTES + 1), 1344);
    }
}

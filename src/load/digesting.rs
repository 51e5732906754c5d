//! Digests of tensors, made of their bytes as they are read: for checkpoints that have none recorded, so that verifying one
//! does not read it twice.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::checkpoint::Checkpoint;
use crate::load::engine::PathTaken;
use crate::load::source::Storage;
use crate::load::verify::Digests;
use crate::os::digest;

/// Storage that digests what passes.
pub struct Digesting<'s> {
    inner: &'s dyn Storage,
    checkpoint: &'s Checkpoint,
    tensors: Vec<Sum>,
    /// Words that two reads have a part of each, by tensor and number.
    words: Mutex<HashMap<(usize, u64), Word>>,
}

#[derive(Default)]
struct Sum {
    sum: AtomicU64,
    /// Bytes that were digested: as many as it has where each was read once.
    bytes: AtomicU64,
}

#[derive(Default)]
struct Word {
    bytes: [u8; 8],
    count: u64,
}

impl<'s> Digesting<'s> {
    /// Around the files of this checkpoint.
    pub fn new(inner: &'s dyn Storage, checkpoint: &'s Checkpoint) -> Digesting<'s> {
        let tensors = checkpoint.tensors.iter().map(|_| Sum::default()).collect();
        Digesting { inner, checkpoint, tensors, words: Mutex::default() }
    }

    /// The digests of all tensors whose bytes were read once each. Those on a page that two reads share are missing.
    pub fn finish(self) -> Digests {
        let all = self.checkpoint.tensors.iter().zip(self.tensors);
        let once = all.filter(|(tensor, sum)| sum.bytes.load(Ordering::Relaxed) == tensor.bytes);
        once.map(|(tensor, sum)| (tensor.name.clone(), digest::finish(sum.sum.into_inner(), tensor.bytes)))
            .collect()
    }

    /// Adds what was read of a file, from `offset` on, to every tensor that it meets.
    fn add(&self, file: usize, offset: u64, read: &[u8]) {
        let start = self.checkpoint.files[file].base + offset;
        let end = start + read.len() as u64;
        for i in self.checkpoint.places_near(start, end) {
            let tensor = &self.checkpoint.tensors[i];
            let (from, to) = (tensor.offset.max(start), tensor.end().min(end));
            if from < to {
                let bytes = &read[(from - start) as usize..(to - start) as usize];
                self.add_part(i, from - tensor.offset, bytes, tensor.bytes);
            }
        }
    }

    /// Adds bytes of a tensor of `total` bytes, from its byte `from` on: whole words at once, the ends word by word.
    fn add_part(&self, tensor: usize, from: u64, bytes: &[u8], total: u64) {
        let to = from + bytes.len() as u64;
        let whole_from = from.next_multiple_of(8).min(to);
        let whole_to = if to == total { to } else { (to & !7).max(whole_from) };
        let of = |low: u64, high: u64| &bytes[(low - from) as usize..(high - from) as usize];
        let mut sum = 0u64;
        if whole_from.is_multiple_of(8) && whole_from < whole_to {
            sum = digest::partial(of(whole_from, whole_to), whole_from);
            sum = sum.wrapping_add(self.add_to_word(tensor, whole_to, of(whole_to, to), total));
        } else if whole_from < to {
            sum = self.add_to_word(tensor, whole_from, of(whole_from, to), total);
        }
        sum = sum.wrapping_add(self.add_to_word(tensor, from, of(from, whole_from), total));
        self.tensors[tensor].sum.fetch_add(sum, Ordering::Relaxed);
        self.tensors[tensor].bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Adds bytes of one word; what it adds to the sum where that made it whole.
    fn add_to_word(&self, tensor: usize, from: u64, bytes: &[u8], total: u64) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let (number, at) = (from / 8, (from % 8) as usize);
        let wanted = (total - number * 8).min(8);
        let mut words = self.lock();
        let word = words.entry((tensor, number)).or_default();
        word.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        word.count += bytes.len() as u64;
        if word.count < wanted {
            return 0;
        }
        let sum = digest::partial(&word.bytes[..wanted as usize], number * 8);
        words.remove(&(tensor, number));
        sum
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, u64), Word>> {
        self.words.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Storage for Digesting<'_> {
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
        let n = self.inner.read(file, offset, bytes, room)?;
        self.add(file, offset, &room[..n as usize]);
        Ok(n)
    }

    fn outcome(&self, name: &str) -> PathTaken {
        self.inner.outcome(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::test_checkpoint;
    use proptest::prelude::*;

    struct InMemory<'m>(&'m [Vec<u8>]);

    impl Storage for InMemory<'_> {
        fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
            room[..bytes as usize].copy_from_slice(&self.0[file][offset as usize..][..bytes as usize]);
            Ok(bytes)
        }

        fn outcome(&self, _: &str) -> PathTaken {
            PathTaken { path: String::new(), reason: String::new(), direct_bytes: 0, buffered_bytes: 0 }
        }
    }

    proptest! {
        /// However the reads are cut, and in whatever order they come.
        #[test]
        fn reads_in_any_pieces_give_each_tensors_digest(
            files in prop::collection::vec((0u64..90, prop::collection::vec(0u64..400, 0..9)), 1..4),
            piece in 1u64..70, seed in any::<u64>(), twice in any::<bool>(),
        ) {
            let checkpoint = test_checkpoint(&files);
            let contents: Vec<Vec<u8>> = checkpoint
                .files
                .iter()
                .map(|file| (0..file.bytes).map(|i| (digest::digest(&(seed ^ (file.base + i)).to_le_bytes()).0) as u8).collect())
                .collect();
            let storage = InMemory(&contents);
            let digesting = Digesting::new(&storage, &checkpoint);
            let mut reads: Vec<(usize, u64)> = Vec::new();
            for (number, file) in checkpoint.files.iter().enumerate() {
                reads.extend((0..file.bytes).step_by(piece as usize).map(|at| (number, at)));
            }
            reads.sort_by_key(|(file, at)| digest::digest(&(seed ^ at ^ *file as u64).to_le_bytes()).0);
            let again = twice.then(|| reads.first().copied()).flatten();
            for (file, at) in reads.into_iter().chain(again) {
                let bytes = piece.min(checkpoint.files[file].bytes - at);
                let mut room = vec![0; bytes as usize];
                digesting.read(file, at, bytes, &mut room).unwrap();
            }
            let found = digesting.finish();
            for tensor in checkpoint.tensors.iter() {
                let file = checkpoint.file_at(tensor.offset).unwrap_or(0);
                let start = (tensor.offset - checkpoint.files[file].base) as usize;
                let wanted = match tensor.bytes {
                    0 => digest::digest(&[]),
                    bytes => digest::digest(&contents[file][start..start + bytes as usize]),
                };
                // What was read twice may be missing; it is never wrong.
                match found.get(&tensor.name) {
                    Some(found) => prop_assert_eq!(*found, wanted, "{}", tensor.name),
                    None => prop_assert!(twice),
                }
            }
        }
    }
}

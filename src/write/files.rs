//! Files written whole: laid out first, then filled by many threads, chunk by chunk, past the page cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use crate::checkpoint::reader::TensorSource;
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::digest::{CHUNK_BYTES, Digest};
use crate::os::memory::HostBuffer;
use crate::os::parallel;
use crate::os::progress::Meter;
use crate::os::sys;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// A file to be: its pieces in order, zeros between them.
pub struct NewFile {
    /// Its path from the new directory.
    pub name: String,
    pub bytes: u64,
    pub pieces: Vec<Piece>,
}

pub struct Piece {
    pub offset: u64,
    pub bytes: u64,
    pub content: Content,
}

pub enum Content {
    /// Index of a tensor of the [`TensorSource`].
    Tensor(usize),
    Literal(Vec<u8>),
}

/// Digests made on the way: of each file's chunks, and of each tensor.
pub struct Written {
    pub chunks: Vec<Vec<Digest>>,
    pub tensors: Vec<Digest>,
}

/// So much of a file is written between two syncs: the last one, during which nothing can be interrupted, finds no more.
pub(super) const SYNC_BYTES: u64 = 256 << 20;

/// Reader and writer threads: enough to keep a drive busy, few enough to stay under 1 GiB of chunks.
fn writer_threads() -> usize {
    (4 * std::thread::available_parallelism().map_or(2, |n| n.get())).clamp(8, 16)
}

/// Writes and syncs `files` into `dir`. `tensor_bytes` gives each tensor's size.
pub fn write_files(
    dir: &Path,
    files: &[NewFile],
    source: &dyn TensorSource,
    tensor_bytes: &[u64],
    cancel: &Cancel,
    meter: &Meter,
) -> Result<Written> {
    let handles = files.iter().map(|file| create(dir, file)).collect::<Result<Vec<_>>>()?;
    let jobs: Vec<(usize, u64)> = files
        .iter()
        .enumerate()
        .flat_map(|(i, file)| (0..file.bytes.div_ceil(CHUNK_BYTES)).map(move |c| (i, c * CHUNK_BYTES)))
        .collect();
    let work = Work {
        filler: Filler::new(files, source, tensor_bytes.len()),
        handles: &handles,
        jobs: &jobs,
        chunk_sums: jobs.iter().map(|_| AtomicU64::new(0)).collect(),
        written_bytes: files.iter().map(|_| AtomicU64::new(0)).collect(),
        cancel,
        meter,
    };
    let buffer = || Ok(HostBuffer::new(CHUNK_BYTES)?);
    parallel::for_each(jobs.len(), writer_threads(), cancel, buffer, |buffer, job| work.write(buffer, job))?;
    source.check_unchanged()?;
    for ((handle, path), file) in handles.iter().zip(files) {
        cancel.check()?;
        let sync = || handle.set_len(file.bytes).and_then(|()| handle.sync_all());
        sync().with_context(|| format!("sync {}", path.display()))?;
    }
    let mut chunks: Vec<Vec<Digest>> = files.iter().map(|_| Vec::new()).collect();
    for ((file, offset), sum) in jobs.iter().zip(work.chunk_sums) {
        let bytes = CHUNK_BYTES.min(files[*file].bytes - offset);
        chunks[*file].push(digest::finish(sum.into_inner(), bytes));
    }
    Ok(Written { chunks, tensors: work.filler.digests(tensor_bytes) })
}

/// Some file systems take `O_DIRECT` when the file is opened and refuse the write, and a short write leaves a rest that is
/// not aligned: what is refused so goes through the page cache.
fn write_chunk(handle: &File, chunk: &[u8], offset: u64) -> std::io::Result<()> {
    match handle.write_all_at(chunk, offset) {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
            sys::use_page_cache(handle)?;
            handle.write_all_at(chunk, offset)
        }
        written => written,
    }
}

fn create(dir: &Path, file: &NewFile) -> Result<(File, PathBuf)> {
    let path = dir.join(&file.name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let handle = sys::create_direct(&path).with_context(|| format!("create {}", path.display()))?;
    sys::preallocate(&handle, align_up(file.bytes, DIRECT_ALIGN))
        .with_context(|| format!("reserve {} bytes for {}", file.bytes, path.display()))?;
    Ok((handle, path))
}

struct Work<'a> {
    filler: Filler<'a>,
    handles: &'a [(File, PathBuf)],
    /// File and offset of each chunk.
    jobs: &'a [(usize, u64)],
    chunk_sums: Vec<AtomicU64>,
    /// Of each file so far.
    written_bytes: Vec<AtomicU64>,
    cancel: &'a Cancel,
    meter: &'a Meter,
}

impl Work<'_> {
    /// Makes and writes one chunk.
    fn write(&self, buffer: &mut HostBuffer, job: usize) -> Result<()> {
        let (file, offset) = self.jobs[job];
        let bytes = CHUNK_BYTES.min(self.filler.files[file].bytes - offset);
        let chunk = &mut buffer.as_mut_slice()[..align_up(bytes, DIRECT_ALIGN) as usize];
        self.filler.fill(file, offset, chunk)?;
        self.chunk_sums[job].store(digest::partial(&chunk[..bytes as usize], 0), Ordering::Relaxed);
        // As many chunks as there are threads may be made at once: none of them need be written any more.
        self.cancel.check()?;
        let (handle, path) = &self.handles[file];
        write_chunk(handle, chunk, offset)
            .with_context(|| format!("write {} bytes at {offset} of {}", chunk.len(), path.display()))?;
        self.meter.advance(bytes);
        self.sync_some(file, bytes)
    }

    /// Syncs a file each time that so much more of it was written, while the other threads write on.
    fn sync_some(&self, file: usize, more_bytes: u64) -> Result<()> {
        let before_bytes = self.written_bytes[file].fetch_add(more_bytes, Ordering::Relaxed);
        if before_bytes / SYNC_BYTES == (before_bytes + more_bytes) / SYNC_BYTES {
            return Ok(());
        }
        let (handle, path) = &self.handles[file];
        handle.sync_data().with_context(|| format!("sync {}", path.display()))
    }
}

/// What new files hold, chunk by chunk; keeps the sums of the tensors' digests on the way.
pub(super) struct Filler<'a> {
    files: &'a [NewFile],
    source: &'a dyn TensorSource,
    tensor_sums: Vec<AtomicU64>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(files: &'a [NewFile], source: &'a dyn TensorSource, tensors: usize) -> Filler<'a> {
        Filler { files, source, tensor_sums: (0..tensors).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The digest of each tensor, of these sizes, once all was filled.
    pub(super) fn digests(self, tensor_bytes: &[u64]) -> Vec<Digest> {
        let sums = self.tensor_sums.into_iter().zip(tensor_bytes);
        sums.map(|(sum, bytes)| digest::finish(sum.into_inner(), *bytes)).collect()
    }

    /// The pieces of a file that meet `[start, end)`.
    pub(super) fn pieces(
        &self,
        file: usize,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = &'a Piece> + use<'a> {
        let pieces = &self.files[file].pieces;
        let first = pieces.partition_point(|p| p.offset + p.bytes <= start);
        pieces[first..].iter().take_while(move |p| p.offset < end)
    }

    /// Fills one chunk from the pieces that meet it, zeros between.
    pub(super) fn fill(&self, file: usize, chunk_offset: u64, chunk: &mut [u8]) -> Result<()> {
        let chunk_end = chunk_offset + chunk.len() as u64;
        let mut filled = 0usize;
        for piece in self.pieces(file, chunk_offset, chunk_end) {
            let start = piece.offset.max(chunk_offset);
            let end = (piece.offset + piece.bytes).min(chunk_end);
            let (from, to) = ((start - chunk_offset) as usize, (end - chunk_offset) as usize);
            let at = start - piece.offset;
            chunk[filled..from].fill(0);
            match &piece.content {
                Content::Literal(text) => chunk[from..to].copy_from_slice(&text[at as usize..][..to - from]),
                Content::Tensor(tensor) => {
                    self.source.fill(*tensor, at, &mut chunk[from..to])?;
                    let sum = self.part_of_digest(*tensor, piece.bytes, at, &chunk[from..to])?;
                    self.tensor_sums[*tensor].fetch_add(sum, Ordering::Relaxed);
                }
            }
            filled = to;
        }
        chunk[filled..].fill(0);
        Ok(())
    }

    /// The sum over the words that begin in this part of a tensor, from its byte `at` on. A word that a chunk's border
    /// cuts (the tensors of a safetensors file begin anywhere) is asked of the source once more.
    fn part_of_digest(&self, tensor: usize, tensor_bytes: u64, at: u64, part: &[u8]) -> Result<u64> {
        let end = at + part.len() as u64;
        let first_word = at.next_multiple_of(8);
        if first_word >= end {
            return Ok(0);
        }
        let words = &part[(first_word - at) as usize..];
        if end.is_multiple_of(8) || end == tensor_bytes {
            return Ok(digest::partial(words, first_word));
        }
        let (whole, cut) = words.split_at(words.len() / 8 * 8);
        let cut_start = end - cut.len() as u64;
        let mut word = [0u8; 8];
        let word_bytes = 8.min(tensor_bytes - cut_start) as usize;
        word[..cut.len()].copy_from_slice(cut);
        self.source.fill(tensor, end, &mut word[cut.len()..word_bytes])?;
        let sum = digest::partial(&word[..word_bytes], cut_start);
        Ok(digest::partial(whole, first_word).wrapping_add(sum))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::os::cancel::Interrupted;
    use crate::os::threads::tests::with_threads;

    struct Ramp;

    impl TensorSource for Ramp {
        fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = ((offset + i as u64) as usize * 31 + tensor) as u8 | 1;
            }
            Ok(())
        }
    }

    #[test]
    fn pieces_land_in_place_with_zeros_between_and_digests_of_both_kinds() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let size = CHUNK_BYTES + 5000;
        let pieces = vec![
            Piece { offset: 0, bytes: 3, content: Content::Literal(b"abc".to_vec()) },
            // No multiple of 8: the chunks' border cuts a word in two.
            Piece { offset: 259, bytes: CHUNK_BYTES, content: Content::Tensor(0) },
            Piece { offset: CHUNK_BYTES + 512, bytes: 13, content: Content::Tensor(1) },
        ];
        let file = NewFile { name: "x".into(), bytes: size, pieces };
        let meter = Meter::silent();
        let written =
            write_files(dir.path(), &[file], &Ramp, &[CHUNK_BYTES, 13], &Cancel::new(), &meter).unwrap();
        let bytes = std::fs::read(dir.path().join("x")).unwrap();
        assert_eq!(bytes.len() as u64, size);
        let mut wanted = vec![0u8; size as usize];
        wanted[..3].copy_from_slice(b"abc");
        Ramp.fill(0, 0, &mut wanted[259..259 + CHUNK_BYTES as usize]).unwrap();
        Ramp.fill(1, 0, &mut wanted[CHUNK_BYTES as usize + 512..][..13]).unwrap();
        assert!(bytes == wanted);
        let chunks: Vec<Digest> = wanted.chunks(CHUNK_BYTES as usize).map(digest::digest).collect();
        assert_eq!(written.chunks, [chunks]);
        assert_eq!(written.tensors[0], digest::digest(&wanted[259..][..CHUNK_BYTES as usize]));
        assert_eq!(written.tensors[1], digest::digest(&wanted[CHUNK_BYTES as usize + 512..][..13]));
    }

    #[test]
    fn a_wish_to_stop_is_heard_between_two_chunks() {
        use std::sync::Arc;
        use std::sync::atomic::AtomicUsize;

        use crate::os::progress::{Listener, Progress, Show, Unit};

        /// Sets the flag when it is asked for the second time, and counts.
        struct Stopping<'c>(&'c Cancel, &'c AtomicUsize);
        impl TensorSource for Stopping<'_> {
            fn fill(&self, _: usize, _: u64, out: &mut [u8]) -> Result<()> {
                if self.1.fetch_add(1, Ordering::Relaxed) == 1 {
                    self.0.set();
                }
                out.fill(1);
                Ok(())
            }
        }
        struct Told(Arc<AtomicU64>);
        impl Listener for Told {
            fn begin(&self, _: &str, _: u64, _: Unit) -> Show {
                let written = self.0.clone();
                Box::new(move |bytes| written.store(bytes, Ordering::Relaxed))
            }
            fn note(&self, _: &str) {}
        }
        let dir = tempfile::tempdir_in(".").unwrap();
        let bytes = 4 * CHUNK_BYTES;
        let pieces = vec![Piece { offset: 0, bytes, content: Content::Tensor(0) }];
        let file = NewFile { name: "x".into(), bytes, pieces };
        let (cancel, asked) = (Cancel::new(), AtomicUsize::new(0));
        let source = Stopping(&cancel, &asked);
        let written = Arc::new(AtomicU64::new(0));
        let meter = Progress::to(Told(written.clone())).begin("", bytes, Unit::Bytes);
        let stopped =
            with_threads(1, || write_files(dir.path(), &[file], &source, &[bytes], &cancel, &meter));
        assert!(stopped.err().unwrap().is::<Interrupted>());
        assert_eq!(asked.into_inner(), 2, "chunks begun");
        assert_eq!(written.load(Ordering::Relaxed), CHUNK_BYTES, "the second one is not written any more");
    }

    #[test]
    fn a_failing_source_fails_the_whole() {
        struct Broken;
        impl TensorSource for Broken {
            fn fill(&self, _: usize, _: u64, _: &mut [u8]) -> Result<()> {
                bail!("no such luck")
            }
        }
        let dir = tempfile::tempdir_in(".").unwrap();
        let pieces = vec![Piece { offset: 0, bytes: 8, content: Content::Tensor(0) }];
        let file = NewFile { name: "x".into(), bytes: 4096, pieces };
        let result = write_files(dir.path(), &[file], &Broken, &[8], &Cancel::new(), &Meter::silent());
        assert_eq!(result.err().unwrap().to_string(), "no such luck");
    }
}

//! New files of packed chunks: windows are packed by all cores, batch by batch, and written in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result};

use crate::checkpoint::DType;
use crate::checkpoint::names::packed_name;
use crate::checkpoint::packed::{Encoder, Form, IndexFile, Span, WINDOW_BYTES};
use crate::checkpoint::reader::TensorSource;
use crate::os::cancel::Cancel;
use crate::os::digest::{self, Digest};
use crate::os::parallel;
use crate::os::progress::Meter;
use crate::write::files::{Content, Filler, NewFile, SYNC_BYTES};

/// What was written.
pub struct Packed {
    pub files: Vec<IndexFile>,
    /// Digests of the tensors, unpacked.
    pub tensors: Vec<Digest>,
    pub gains: BTreeMap<DType, Gain>,
}

/// What the tensors of a type came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gain {
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Those of them that were coded.
    pub coded_bytes: u64,
    /// What all of them came to.
    pub packed_bytes: u64,
}

/// More threads than this would need more memory than a pack may take.
const MAX_THREADS: usize = 128;
/// Windows of a batch for each thread: enough that few wait for the last one.
const WINDOWS_EACH: usize = 3;

/// Packs `files` into `dir`, one for each. `tensors` gives each tensor's type and size.
pub fn write(
    dir: &Path,
    files: &[NewFile],
    source: &dyn TensorSource,
    tensors: &[(DType, u64)],
    cancel: &Cancel,
    meter: &Meter,
) -> Result<Packed> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).min(MAX_THREADS);
    let jobs: Vec<(usize, u64)> = files
        .iter()
        .enumerate()
        .flat_map(|(i, file)| (0..file.bytes.div_ceil(WINDOW_BYTES)).map(move |w| (i, w * WINDOW_BYTES)))
        .collect();
    let packing = Packing {
        filler: Filler::new(files, source, tensors.len()),
        files,
        tensors,
        gains: Mutex::default(),
    };
    let mut outs = (0..files.len()).map(|number| Out::create(dir, number)).collect::<Result<Vec<_>>>()?;
    let slots: Vec<Mutex<Chunk>> = (0..threads * WINDOWS_EACH).map(|_| Mutex::default()).collect();
    for batch in jobs.chunks(slots.len()) {
        let start = || Ok((Encoder::default(), vec![0; WINDOW_BYTES as usize]));
        let pack = |(encoder, window): &mut (Encoder, Vec<u8>), i: usize| -> Result<()> {
            let (file, offset) = batch[i];
            packing.pack(file, offset, window, encoder, &mut lock(&slots[i]))?;
            meter.advance(WINDOW_BYTES.min(files[file].bytes - offset));
            Ok(())
        };
        parallel::for_each(batch.len(), threads, cancel, start, pack)?;
        let mut placed = Vec::new();
        for ((file, _), slot) in batch.iter().zip(&slots) {
            placed.push(outs[*file].place(&lock(slot)));
        }
        let write = |_: &mut (), i: usize| outs[batch[i].0].write(&lock(&slots[i]).bytes, placed[i]);
        parallel::for_each(batch.len(), threads, cancel, || Ok(()), write)?;
        outs.iter_mut().try_for_each(Out::sync_some)?;
    }
    source.check_unchanged()?;
    for out in &outs {
        cancel.check()?;
        out.handle.sync_all().with_context(|| format!("sync {}", out.path.display()))?;
    }
    let index_file = |(number, (out, file)): (usize, (Out, &NewFile))| IndexFile {
        file: packed_name(number),
        decoded_bytes: file.bytes,
        chunks: out.chunks,
    };
    let sizes: Vec<u64> = tensors.iter().map(|(_, bytes)| *bytes).collect();
    Ok(Packed {
        files: outs.into_iter().zip(files).enumerate().map(index_file).collect(),
        gains: packing.gains.into_inner().unwrap_or_else(|e| e.into_inner()),
        tensors: packing.filler.digests(&sizes),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A packed window that waits to be written.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    digest: Option<Digest>,
}

struct Packing<'a> {
    filler: Filler<'a>,
    files: &'a [NewFile],
    tensors: &'a [(DType, u64)],
    gains: Mutex<BTreeMap<DType, Gain>>,
}

impl Packing<'_> {
    /// Packs the window of a file that begins at `offset` into `out`.
    fn pack(
        &self,
        file: usize,
        offset: u64,
        window: &mut [u8],
        encoder: &mut Encoder,
        out: &mut Chunk,
    ) -> Result<()> {
        let window = &mut window[..WINDOW_BYTES.min(self.files[file].bytes - offset) as usize];
        self.filler.fill(file, offset, window)?;
        let (spans, types) = self.spans(file, offset, window.len() as u64);
        let encoded = encoder.encode(window, (offset / WINDOW_BYTES) as u32, &spans);
        let mut gains = lock(&self.gains);
        for (span, dtype) in spans.iter().zip(&types) {
            let gain = gains.entry(*dtype).or_default();
            gain.bytes += span.range.len() as u64;
            gain.packed_bytes += span.range.len() as u64;
        }
        for (span, bytes, packed_bytes) in encoded.coded {
            let gain = gains.entry(types[span]).or_default();
            gain.coded_bytes += bytes;
            gain.packed_bytes = gain.packed_bytes + packed_bytes - bytes;
        }
        drop(gains);
        out.bytes.clear();
        out.bytes.extend_from_slice(encoded.chunk);
        out.digest = Some(digest::digest(&out.bytes));
        Ok(())
    }

    /// The tensors in a window, and their types.
    fn spans(&self, file: usize, offset: u64, bytes: u64) -> (Vec<Span>, Vec<DType>) {
        let mut found: (Vec<Span>, Vec<DType>) = Default::default();
        for piece in self.filler.pieces(file, offset, offset + bytes) {
            let Content::Tensor(tensor) = piece.content else { continue };
            let start = piece.offset.max(offset) - offset;
            let end = (piece.offset + piece.bytes).min(offset + bytes) - offset;
            let dtype = self.tensors[tensor].0;
            found.0.push(Span { range: start as usize..end as usize, form: Form::of(dtype) });
            found.1.push(dtype);
        }
        found
    }
}

/// A file in the making.
struct Out {
    path: PathBuf,
    handle: File,
    /// Bytes that have a place, and those of them that were synced.
    bytes: u64,
    synced_bytes: u64,
    chunks: Vec<(u64, Digest)>,
}

impl Out {
    fn create(dir: &Path, number: usize) -> Result<Out> {
        let path = dir.join(packed_name(number));
        let handle = File::options().write(true).create_new(true).open(&path);
        let handle = handle.with_context(|| format!("create {}", path.display()))?;
        Ok(Out { path, handle, bytes: 0, synced_bytes: 0, chunks: Vec::new() })
    }

    /// Gives the next chunk its place.
    fn place(&mut self, chunk: &Chunk) -> u64 {
        let (at, bytes) = (self.bytes, chunk.bytes.len() as u64);
        self.bytes += bytes;
        self.chunks.extend(chunk.digest.map(|digest| (bytes, digest)));
        at
    }

    fn write(&self, chunk: &[u8], at: u64) -> Result<()> {
        let what = || format!("write {} bytes at {at} of {}", chunk.len(), self.path.display());
        self.handle.write_all_at(chunk, at).with_context(what)
    }

    /// Syncs each time that so much more was written: nothing can interrupt the last sync.
    fn sync_some(&mut self) -> Result<()> {
        if self.bytes - self.synced_bytes < SYNC_BYTES {
            return Ok(());
        }
        self.synced_bytes = self.bytes;
        self.handle.sync_data().with_context(|| format!("sync {}", self.path.display()))
    }
}

//! A checkpoint's digests recomputed from disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::packed::{self, Decoder, WINDOW_BYTES};
use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::load::source::{Sources, Storage};
use crate::load::verify::{Digests, differs, read_digests};
use crate::load::{Destination, default_threads};
use crate::os::cancel::Cancel;
use crate::os::digest::{self, Digest};
use crate::os::memory::HostBuffer;
use crate::os::parallel;
use crate::os::progress::{Progress, Unit};
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Recomputes the digests of all chunks and tensors in one pass over the files, past the page cache. What is wrong, in
/// words.
pub fn digests(
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Vec<String>> {
    let sources = Sources::open_direct(checkpoint)?;
    let jobs = chunks(checkpoint, manifest);
    let meter = progress.begin("verify", checkpoint.file_bytes(), Unit::Bytes);
    let tensor_sums: Vec<AtomicU64> = checkpoint.tensors.iter().map(|_| AtomicU64::new(0)).collect();
    // With file and chunk, for their order.
    let problems: Mutex<Vec<((usize, u64), String)>> = Mutex::new(Vec::new());
    let check = |room: &mut Room, number: usize| -> Result<()> {
        let chunk = &jobs[number];
        if let Some(why) = check_chunk(checkpoint, &sources, chunk, room, &tensor_sums)? {
            let text = format!("{}: {why}", describe(checkpoint, chunk));
            let mut problems = problems.lock().unwrap_or_else(|e| e.into_inner());
            problems.push(((chunk.file, chunk.number), text));
        }
        meter.advance(chunk.bytes);
        Ok(())
    };
    let threads = default_threads(&Destination::Host);
    // Read from the beginning of a page to the end of one.
    let most = jobs.iter().map(|chunk| chunk.stored_bytes).max().unwrap_or(0) + 2 * DIRECT_ALIGN;
    let room = || -> Result<Room> { Ok(Room { stored: HostBuffer::new(most)?, unpacked: Vec::new() }) };
    parallel::for_each(jobs.len(), threads, cancel, room, check)?;
    let mut problems = problems.into_inner().unwrap_or_else(|e| e.into_inner());
    problems.sort();
    let mut lines: Vec<String> = problems.into_iter().map(|(_, text)| text).collect();
    for (tensor, sum) in checkpoint.tensors.iter().zip(tensor_sums) {
        let (found, wanted) =
            (digest::finish(sum.into_inner(), tensor.bytes), manifest.tensors.get(&tensor.name));
        if wanted != Some(&found) {
            let wanted = wanted.map_or("none".to_string(), |w| w.to_string());
            lines.push(format!("tensor '{}': digest {found}, expected {wanted}", tensor.name));
        }
    }
    Ok(lines)
}

/// Recomputes the digests of all tensors, from one read of each, and holds them against those of an index over their files.
/// What is wrong, in words.
pub fn tensor_digests(checkpoint: &Checkpoint, wanted: &Digests, cancel: &Cancel) -> Result<Vec<String>> {
    let reader = TensorReader::new(checkpoint.clone())?;
    let sizes: Vec<u64> = checkpoint.tensors.iter().map(|tensor| tensor.bytes).collect();
    let found = read_digests(&sizes, &reader, cancel)?;
    reader.check_unchanged()?;
    Ok(checkpoint.names().zip(found).filter_map(|(name, found)| differs(name, found, wanted)).collect())
}

/// What has a digest of its own: a part of a file, or a packed chunk.
struct Chunk {
    file: usize,
    number: u64,
    /// Its bytes in the file; of packed files as that unpacks.
    offset: u64,
    bytes: u64,
    /// The same as it lies on disk.
    stored: u64,
    stored_bytes: u64,
    wanted: Digest,
}

/// All chunks of all files. [`Checkpoint::open`] has seen that each has a digest.
fn chunks(checkpoint: &Checkpoint, manifest: &Manifest) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (file, data) in checkpoint.files.iter().enumerate() {
        if let Some(packed) = checkpoint.packed_file(file) {
            chunks.extend(packed.windows(0, data.bytes).zip(&packed.digests).map(|(window, wanted)| Chunk {
                file,
                number: window.number.into(),
                offset: u64::from(window.number) * WINDOW_BYTES,
                bytes: window.window_bytes,
                stored: window.stored.start,
                stored_bytes: window.stored.end - window.stored.start,
                wanted: *wanted,
            }));
            continue;
        }
        for (number, wanted) in (0..).zip(&manifest.partitions[file].digests) {
            let offset = number * manifest.chunk_bytes;
            let bytes = manifest.chunk_bytes.min(data.bytes - offset);
            let (stored, stored_bytes, wanted) = (offset, bytes, *wanted);
            chunks.push(Chunk { file, number, offset, bytes, stored, stored_bytes, wanted });
        }
    }
    chunks
}

/// Reads a chunk, and adds what it holds to the sums of its tensors. What is wrong with it, in words.
fn check_chunk(
    checkpoint: &Checkpoint,
    sources: &Sources,
    chunk: &Chunk,
    room: &mut Room,
    sums: &[AtomicU64],
) -> Result<Option<String>> {
    read_chunk(checkpoint, sources, chunk, &mut room.stored)?;
    let before = (chunk.stored % DIRECT_ALIGN) as usize;
    let read = &room.stored.as_slice()[before..][..chunk.stored_bytes as usize];
    let found = digest::digest(read);
    let unpacked = unpack(checkpoint, chunk, read, &mut room.unpacked);
    let why = match &unpacked {
        _ if found != chunk.wanted => Some(format!("digest {found}, expected {}", chunk.wanted)),
        Ok(_) => None,
        Err(why) => Some(format!("its digest is right, and it does not unpack: {why}")),
    };
    if let Ok(unpacked) = unpacked {
        add_tensor_parts(checkpoint, chunk.file, chunk.offset, unpacked.unwrap_or(read), sums);
    }
    Ok(why)
}

/// What a thread reads into.
struct Room {
    stored: HostBuffer,
    unpacked: Vec<u8>,
}

/// The unpacked bytes of a packed file's window; `None` of files that are not packed.
fn unpack<'r>(
    checkpoint: &Checkpoint,
    chunk: &Chunk,
    read: &[u8],
    room: &'r mut Vec<u8>,
) -> Result<Option<&'r [u8]>, packed::Damaged> {
    let (from, to) = (chunk.offset, chunk.offset + chunk.bytes);
    let window = checkpoint.packed_file(chunk.file).and_then(|packed| packed.windows(from, to).next());
    let Some(window) = window else { return Ok(None) };
    room.resize(chunk.bytes as usize, 0);
    packed::decode(&mut Decoder::default(), &window, read, room)?;
    Ok(Some(room))
}

/// Fills a buffer with bytes of a file, and those before them on their page.
fn read_chunk(c: &Checkpoint, sources: &Sources, chunk: &Chunk, buffer: &mut HostBuffer) -> Result<()> {
    let (file, path) = (chunk.file, &c.files[chunk.file].path);
    let offset = chunk.stored & !(DIRECT_ALIGN - 1);
    let bytes = chunk.stored_bytes + chunk.stored % DIRECT_ALIGN;
    // Read up to the end of a page, so that packed chunks, which end anywhere, are read past the page cache, too.
    let room_bytes = align_up(bytes, DIRECT_ALIGN);
    let bytes = room_bytes.min(c.stored_file_bytes(file) - offset).max(bytes);
    let buffer = buffer.as_mut_slice();
    let mut done = 0u64;
    while done < bytes {
        let room = &mut buffer[done as usize..room_bytes as usize];
        match sources.read(file, offset + done, bytes - done, room) {
            Ok(0) => bail!(
                "{} ends at byte {}: it was cut short; fetch or save it anew",
                path.display(),
                offset + done
            ),
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let what = format!("read {} bytes at {} of {}", bytes - done, offset + done, path.display());
                return Err(e).context(what);
            }
        }
    }
    Ok(())
}

/// Adds this chunk's share to the sum of every tensor that it meets. Our tensors begin at multiples of 256.
fn add_tensor_parts(checkpoint: &Checkpoint, file: usize, offset: u64, chunk: &[u8], sums: &[AtomicU64]) {
    let start = checkpoint.files[file].base + offset;
    let end = start + chunk.len() as u64;
    // Tied tensors are neighbours: their bytes are digested once.
    let mut last: Option<((u64, u64), u64)> = None;
    for i in checkpoint.places_near(start, end) {
        let tensor = &checkpoint.tensors[i];
        let (from, to) = (tensor.offset.max(start), tensor.end().min(end));
        if from >= to || !(from - tensor.offset).is_multiple_of(8) {
            continue;
        }
        let place = (tensor.offset, tensor.bytes);
        let part = match last {
            Some((twin, part)) if twin == place => part,
            _ => {
                digest::partial(&chunk[(from - start) as usize..(to - start) as usize], from - tensor.offset)
            }
        };
        last = Some((place, part));
        sums[i].fetch_add(part, Ordering::Relaxed);
    }
}

/// Names a chunk by file, number, bytes as they lie on disk, and the tensors in it.
fn describe(checkpoint: &Checkpoint, chunk: &Chunk) -> String {
    let Chunk { file, number, offset, bytes, stored, stored_bytes, .. } = *chunk;
    let data = &checkpoint.files[file];
    let start = data.base + offset;
    let names: Vec<&str> = checkpoint.tensors_in(start, start + bytes).map(|t| t.name.as_str()).collect();
    let tensors = match names.as_slice() {
        [] => "padding only".to_string(),
        [one] => format!("tensor '{one}'"),
        [first, .., last] => format!("{} tensors, '{first}' to '{last}'", names.len()),
    };
    format!("{} chunk {number} (bytes {stored} to {}, {tensors})", data.path.display(), stored + stored_bytes)
}

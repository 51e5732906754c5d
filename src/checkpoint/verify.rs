//! `sllm-gds verify`: digests recomputed from disk, and comparison with another checkpoint.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use super::Checkpoint;
use super::input::TensorReader;
use super::manifest::Manifest;
use super::write::Source;
use crate::Outcome;
use crate::cli::{IoChoice, VerifyArgs};
use crate::digest;
use crate::interrupt::{Cancel, Interrupted};
use crate::load::source::{Sources, Storage};
use crate::load::{Destination, default_threads};
use crate::memory::HostBuffer;
use crate::progress;
use crate::sys::{DIRECT_ALIGN, align_up};

/// Bytes compared at a time with `--against`.
const BLOCK_BYTES: u64 = 4 << 20;

pub fn run(args: &VerifyArgs, cancel: &Cancel) -> Result<Outcome> {
    let checkpoint = Checkpoint::find(&args.checkpoint.name, &args.checkpoint.storage_path)?;
    let mut problems = Vec::new();
    let mut done = Vec::new();
    match &checkpoint.manifest {
        Some(manifest) => {
            problems.extend(digests(&checkpoint, manifest, cancel)?);
            let chunks: usize = manifest.partitions.iter().map(|p| p.digests.len()).sum();
            done.push(format!(
                "{chunks} chunks and {} tensors against the manifest",
                checkpoint.tensors.len()
            ));
        }
        None if args.against.is_none() => bail!(
            "{} has no manifest with digests (sllm_gds.json): say --against DIR to compare with another checkpoint, or \
             save it again to get one",
            checkpoint.dir.display()
        ),
        None => {}
    }
    if let Some(against) = &args.against {
        let (differences, compared) = compare(checkpoint, against, cancel)?;
        problems.extend(differences);
        done.push(format!("{compared} tensors against {}", against.display()));
    }
    if args.json {
        let value = serde_json::json!({ "good": problems.is_empty(), "checked": done, "problems": problems });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        for problem in &problems {
            eprintln!("error: {problem}");
        }
        let verdict =
            if problems.is_empty() { "all good".into() } else { format!("{} problems", problems.len()) };
        println!("verified {}: {verdict}", done.join(", "));
    }
    Ok(if problems.is_empty() { Outcome::Yes } else { Outcome::No })
}

/// Recomputes the digests of all chunks and tensors in one pass over the files, past the page cache.
pub(super) fn digests(checkpoint: &Checkpoint, manifest: &Manifest, cancel: &Cancel) -> Result<Vec<String>> {
    let sources = Sources::open(checkpoint, IoChoice::Direct)?;
    let jobs: Vec<(usize, u64)> = checkpoint
        .files
        .iter()
        .enumerate()
        .flat_map(|(i, f)| (0..f.bytes.div_ceil(manifest.chunk_bytes)).map(move |c| (i, c)))
        .collect();
    let bar = progress::bytes_bar(checkpoint.file_bytes(), "verify");
    let tensor_sums: Vec<AtomicU64> = checkpoint.tensors.iter().map(|_| AtomicU64::new(0)).collect();
    let problems: Mutex<Vec<(usize, String)>> = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        let mut buffer = HostBuffer::new(manifest.chunk_bytes)?;
        while let Some((file, chunk)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            if cancel.is_set() {
                bail!(Interrupted);
            }
            let offset = chunk * manifest.chunk_bytes;
            let bytes = manifest.chunk_bytes.min(checkpoint.files[file].bytes - offset);
            read_chunk(checkpoint, &sources, file, offset, bytes, buffer.as_mut_slice())?;
            let read = &buffer.as_slice()[..bytes as usize];
            add_tensor_parts(checkpoint, file, offset, read, &tensor_sums);
            let (found, wanted) = (digest::digest(read), manifest.partitions[file].digests[chunk as usize]);
            if found != wanted {
                let what = describe(checkpoint, file, chunk, offset, bytes);
                let text = format!("{what}: digest {found}, expected {wanted}");
                problems.lock().unwrap_or_else(|e| e.into_inner()).push((file, text));
            }
            bar.inc(bytes);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..default_threads(&Destination::Host).min(jobs.len())).map(|_| scope.spawn(run)).collect();
        for handle in handles {
            match handle.join() {
                Ok(result) => result?,
                Err(_) => bail!("a verifying thread died; please report this"),
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
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

fn read_chunk(
    c: &Checkpoint,
    sources: &Sources,
    file: usize,
    offset: u64,
    bytes: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let path = &c.files[file].path;
    let room_bytes = align_up(bytes, DIRECT_ALIGN) as usize;
    let mut done = 0u64;
    while done < bytes {
        let room = &mut buffer[done as usize..room_bytes];
        match sources.read(file, offset + done, bytes - done, room) {
            Ok(0) => bail!("{} ends at byte {}: it was cut short", path.display(), offset + done),
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
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        let (from, to) = (tensor.offset.max(start), tensor.end().min(end));
        if from < to && (from - tensor.offset).is_multiple_of(8) {
            let part = &chunk[(from - start) as usize..(to - start) as usize];
            sums[i].fetch_add(digest::partial(part, from - tensor.offset), Ordering::Relaxed);
        }
    }
}

/// Names a chunk by file, number, bytes and the tensors in it.
fn describe(checkpoint: &Checkpoint, file: usize, chunk: u64, offset: u64, bytes: u64) -> String {
    let data = &checkpoint.files[file];
    let start = data.base + offset;
    let names: Vec<&str> = checkpoint.tensors_in(start, start + bytes).map(|t| t.name.as_str()).collect();
    let tensors = match names.as_slice() {
        [] => "padding only".to_string(),
        [one] => format!("tensor '{one}'"),
        [first, .., last] => format!("{} tensors, '{first}' to '{last}'", names.len()),
    };
    format!("{} chunk {chunk} (bytes {offset} to {}, {tensors})", data.path.display(), offset + bytes)
}

/// Compares every tensor's type, shape and bytes. A name that only one side has is fine where it is tied to
/// one that both have: safetensors drops such names.
fn compare(ours: Checkpoint, against: &Path, cancel: &Cancel) -> Result<(Vec<String>, usize)> {
    let theirs = Checkpoint::open(against)?;
    let (ours, theirs) = (TensorReader::new(ours)?, TensorReader::new(theirs)?);
    let at = |r: &TensorReader| -> HashMap<String, usize> {
        r.checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect()
    };
    let (our_names, their_names) = (at(&ours), at(&theirs));
    let mut problems = Vec::new();
    let mut compared = 0usize;
    let bar = progress::bytes_bar(ours.checkpoint.tensor_bytes(), "compare");
    for (i, tensor) in ours.checkpoint.tensors.iter().enumerate() {
        if cancel.is_set() {
            bail!(Interrupted);
        }
        match their_names.get(&tensor.name) {
            Some(j) => {
                compared += 1;
                problems.extend(compare_tensor(&ours, i, &theirs, *j)?);
                bar.inc(tensor.bytes);
            }
            None if is_tied_to_one_of(&ours.checkpoint, i, &their_names) => {}
            None => problems.push(format!("tensor '{}' is missing in {}", tensor.name, against.display())),
        }
    }
    for (j, tensor) in theirs.checkpoint.tensors.iter().enumerate() {
        if !our_names.contains_key(&tensor.name) && !is_tied_to_one_of(&theirs.checkpoint, j, &our_names) {
            problems.push(format!("tensor '{}' stands only in {}", tensor.name, against.display()));
        }
    }
    bar.finish_and_clear();
    Ok((problems, compared))
}

fn is_tied_to_one_of(checkpoint: &Checkpoint, index: usize, names: &HashMap<String, usize>) -> bool {
    let tensor = &checkpoint.tensors[index];
    let twins = checkpoint.tensors.iter().filter(|t| t.offset == tensor.offset && t.bytes == tensor.bytes);
    tensor.bytes > 0 && twins.into_iter().any(|t| t.name != tensor.name && names.contains_key(&t.name))
}

fn compare_tensor(ours: &TensorReader, i: usize, theirs: &TensorReader, j: usize) -> Result<Option<String>> {
    let (a, b) = (&ours.checkpoint.tensors[i], &theirs.checkpoint.tensors[j]);
    if (a.dtype, &a.shape, a.bytes) != (b.dtype, &b.shape, b.bytes) {
        return Ok(Some(format!(
            "tensor '{}' is {:?} {:?} of {} bytes here, {:?} {:?} of {} bytes there",
            a.name, a.dtype, a.shape, a.bytes, b.dtype, b.shape, b.bytes
        )));
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut offset = 0u64;
    while offset < a.bytes {
        let block = BLOCK_BYTES.min(a.bytes - offset) as usize;
        left.resize(block, 0);
        right.resize(block, 0);
        ours.fill(i, offset, &mut left)?;
        theirs.fill(j, offset, &mut right)?;
        if let Some(at) = left.iter().zip(&right).position(|(x, y)| x != y) {
            return Ok(Some(format!("tensor '{}' differs from byte {} on", a.name, offset + at as u64)));
        }
        offset += block as u64;
    }
    Ok(None)
}

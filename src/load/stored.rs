//! `sllm-gds verify`: digests recomputed from disk, and comparison with another checkpoint.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::manifest::Manifest;
use crate::cli::progress;
use crate::cli::{IoChoice, VerifyArgs};
use crate::load::compare;
use crate::load::source::{Sources, Storage};
use crate::load::{Destination, default_threads};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::digest;
use crate::os::memory::HostBuffer;
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text;

pub fn run(args: &VerifyArgs, cancel: &Cancel) -> Result<Outcome> {
    let checkpoint = Checkpoint::find(&args.checkpoint.name, &args.checkpoint.storage_path)?;
    if let Some(note) = checkpoint.note_of_place().filter(|_| args.against.is_none()) {
        text::tell(format_args!("note: {note}"));
    }
    // By kind, so that many of one hide none of another.
    let mut problems: Vec<Vec<String>> = Vec::new();
    let mut done = Vec::new();
    let mut hint = None;
    if let Some(lost) = checkpoint.what_is_lost() {
        problems.push(vec![lost]);
        done.push("what the files hold of the index's tensors".to_string());
    }
    let gone = checkpoint.missing_beside();
    problems.push(
        gone.iter().map(|name| format!("{name}, which was saved beside the weights, is missing")).collect(),
    );
    match &checkpoint.manifest {
        Some(manifest) => {
            problems.push(digests(&checkpoint, manifest, cancel)?);
            let chunks: usize = manifest.partitions.iter().map(|p| p.digests.len()).sum();
            done.push(format!(
                "{chunks} chunks and {} tensors against the manifest",
                checkpoint.tensors.len()
            ));
        }
        None if args.against.is_none() && checkpoint.lost.is_empty() => bail!(
            "{} has no manifest with digests (sllm_gds.json): say --against DIR to compare with another checkpoint, or \
             save it again to get one",
            checkpoint.dir.display()
        ),
        None => {}
    }
    if let Some(against) = &args.against {
        // As the first one, by its name, too.
        let stored = args.checkpoint.storage_path.join(against);
        let against = if !against.exists() && stored.exists() { &stored } else { against };
        let compared = compare::compare(checkpoint, against, cancel)?;
        problems.extend(compared.problems);
        hint = compared.hint;
        done.push(format!("{} tensors against {}", compared.tensors, against.display()));
    }
    let count: usize = problems.iter().map(Vec::len).sum();
    let good = count == 0;
    if args.json {
        let value =
            serde_json::json!({ "good": good, "checked": done, "hint": hint, "problems": problems.concat() });
        text::say_json(&serde_json::to_string_pretty(&value)?);
    } else {
        problems.iter().for_each(|kind| text::tell_findings(kind));
        if let Some(hint) = hint {
            text::tell(format_args!("note: {hint}"));
        }
        let verdict = if good { "all good".into() } else { format!("{count} problems") };
        text::say(format_args!("verified {}: {verdict}", done.join(", ")));
    }
    Ok(if good { Outcome::Yes } else { Outcome::No })
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
    // With file and chunk, for their order.
    let problems: Mutex<Vec<((usize, u64), String)>> = Mutex::new(Vec::new());
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
                problems.lock().unwrap_or_else(|e| e.into_inner()).push(((file, chunk), text));
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

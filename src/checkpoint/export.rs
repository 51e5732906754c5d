//! `export`: any checkpoint back to safetensors. A checkpoint that was saved from safetensors gives back the
//! very same files; any other is sharded anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::input::{Sidecar, TensorReader};
use super::save::{check_space, copy_sidecars, explain_full_disk, write_synced};
use super::staging::Staging;
use super::write::{Content, NewFile, Piece, write_files};
use super::{Checkpoint, MAX_TOTAL_BYTES, manifest, safetensors, verify};
use crate::Outcome;
use crate::cli::ExportArgs;
use crate::interrupt::Cancel;
use crate::progress;
use crate::text;

const DEFAULT_SHARD_BYTES: u64 = 5 << 30;

/// Files to write, and the text of the shards' index, if there is one.
struct Shards {
    files: Vec<NewFile>,
    index: Option<(String, String)>,
}

pub fn run(args: &ExportArgs, cancel: &Cancel) -> Result<Outcome> {
    let started = Instant::now();
    let checkpoint = Checkpoint::find(&args.checkpoint.name, &args.checkpoint.storage_path)?;
    let files = export(checkpoint, &args.to, args.max_shard_size, args.overwrite, cancel)?;
    let bytes: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let elapsed_s = started.elapsed().as_secs_f64();
    if args.json {
        let report = serde_json::json!({
            "path": args.to, "files": files, "bytes": bytes, "elapsed_s": elapsed_s,
        });
        text::say_json(&serde_json::to_string_pretty(&report)?);
    } else {
        text::say(format_args!(
            "exported {bytes} bytes in {} files to {}: {elapsed_s:.2} s",
            files.len(),
            args.to.display()
        ));
    }
    Ok(Outcome::Yes)
}

/// Writes a safetensors directory; returns its weight files.
pub fn export(
    checkpoint: Checkpoint,
    to: &Path,
    max_shard_bytes: Option<u64>,
    overwrite: bool,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>> {
    if let Some(tensor) = checkpoint.tensors.iter().find(|t| !t.is_contiguous()) {
        bail!(
            "tensor '{}' is a strided view (shape {:?}, strides {:?}, {} bytes), and safetensors holds only contiguous \
             tensors: make it contiguous in the program that saved it",
            tensor.name,
            tensor.shape,
            tensor.stride,
            tensor.bytes
        );
    }
    sum(checkpoint.tensors.iter().map(|t| t.bytes))?;
    if let Some(manifest) = &checkpoint.manifest
        && let Some(problem) = verify::digests(&checkpoint, manifest, cancel)?.first()
    {
        bail!("{} is damaged, and nothing was exported: {problem}", checkpoint.dir.display());
    }
    let origin = checkpoint.manifest.as_ref().and_then(|m| m.source.as_ref());
    let shards = match (origin, max_shard_bytes) {
        (Some(origin), None) => as_it_was(&checkpoint, origin)?,
        _ => sharded(&checkpoint, max_shard_bytes.unwrap_or(DEFAULT_SHARD_BYTES))?,
    };
    let total_bytes = sum(shards.files.iter().map(|f| f.bytes))?;
    check_space(to, total_bytes, "--to")?;
    let staging = Staging::new(to, overwrite)?;
    let sidecars: Vec<Sidecar> = checkpoint.sidecars()?.into_iter().map(Sidecar::Copy).collect();
    let tensors = checkpoint.tensors.len();
    let reader = TensorReader::new(checkpoint)?;
    let bar = progress::bytes_bar(total_bytes, &format!("export to {}", to.display()));
    write_files(staging.path(), &shards.files, &reader, &[], cancel, &bar)
        .map_err(|e| explain_full_disk(e, staging.path(), total_bytes))
        .with_context(|| format!("export to {}", to.display()))?;
    copy_sidecars(&sidecars, staging.path())?;
    if let Some((name, text)) = &shards.index {
        write_synced(&staging.path().join(name), text.as_bytes())?;
    }
    check(staging.path(), tensors)?;
    staging.publish()?;
    bar.finish_and_clear();
    Ok(shards.files.iter().map(|f| to.join(&f.name)).collect())
}

/// Safetensors holds tied tensors once for each name: what they come to together, where that can be.
fn sum(mut sizes: impl Iterator<Item = u64>) -> Result<u64> {
    let sum = sizes.try_fold(0u64, |sum, bytes| sum.checked_add(bytes));
    sum.filter(|bytes| *bytes <= MAX_TOTAL_BYTES).context("it would write more than any file system holds")
}

/// A recorded source may be damaged: what it leads to must open, and lack no tensor.
fn check(written: &Path, tensors: usize) -> Result<()> {
    let advice = "the recorded source (sllm_gds.json) does not fit: shard anew with --max-shard-size 5GB";
    let found = Checkpoint::open(written).context(advice)?.tensors.len();
    if found != tensors {
        bail!("{found} of {tensors} tensors would be exported; {advice}");
    }
    Ok(())
}

/// The files that it was saved from, by their recorded headers.
fn as_it_was(checkpoint: &Checkpoint, origin: &manifest::Source) -> Result<Shards> {
    let path = checkpoint.dir.join(manifest::FILE);
    let mut files = Vec::new();
    let names: Vec<&String> =
        origin.shards.iter().map(|s| &s.file).chain(origin.index.iter().map(|i| &i.0)).collect();
    if let Some(name) = names.iter().find(|n| n.contains('/') || n.starts_with('.') || n.is_empty()) {
        return Err(super::malformed(&path, format!("'{name}' can't be a file's name here")));
    }
    let place_of: HashMap<&str, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    for shard in &origin.shards {
        let tensors = safetensors::header_tensors(&path, &shard.header)?;
        let mut order = Vec::new();
        for (spec, _, bytes) in &tensors {
            let found = place_of.get(spec.name.as_str()).copied().filter(|i| {
                let t = &checkpoint.tensors[*i];
                (t.dtype, t.bytes, &t.shape) == (spec.dtype, *bytes, &spec.shape)
            });
            let Some(index) = found else {
                let what =
                    format!("the recorded header of {} does not fit tensor '{}'", shard.file, spec.name);
                return Err(super::malformed(&path, what));
            };
            order.push(index);
        }
        files.push(shard_file(shard.file.clone(), &shard.header, checkpoint, &order));
    }
    Ok(Shards { files, index: origin.index.clone() })
}

/// New shards of at most `max_bytes`, named as transformers name them.
fn sharded(checkpoint: &Checkpoint, max_bytes: u64) -> Result<Shards> {
    let mut shards: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new())];
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        match shards.last_mut() {
            Some((bytes, members)) if members.is_empty() || *bytes + tensor.bytes <= max_bytes => {
                *bytes += tensor.bytes;
                members.push(i);
            }
            _ => shards.push((tensor.bytes, vec![i])),
        }
    }
    let count = shards.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let mut weight_map = serde_json::Map::new();
    let mut files = Vec::new();
    for (i, (_, members)) in shards.iter().enumerate() {
        let tensors = members.iter().map(|m| &checkpoint.tensors[*m]);
        let header = safetensors::make_header(
            tensors.clone().map(|t| (t.name.as_str(), t.dtype, &t.shape[..], t.bytes)),
        );
        for tensor in tensors {
            weight_map.insert(tensor.name.clone(), name(i).into());
        }
        files.push(shard_file(name(i), &header, checkpoint, members));
    }
    let total: u64 = shards.iter().map(|s| s.0).sum();
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let text = serde_json::to_string_pretty(&index)?;
    Ok(Shards { files, index: (count > 1).then(|| ("model.safetensors.index.json".into(), text)) })
}

fn shard_file(name: String, header: &str, checkpoint: &Checkpoint, members: &[usize]) -> NewFile {
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(header.as_bytes());
    let mut at = head.len() as u64;
    let mut pieces = vec![Piece { offset: 0, bytes: at, content: Content::Literal(head) }];
    for member in members {
        let bytes = checkpoint.tensors[*member].bytes;
        pieces.push(Piece { offset: at, bytes, content: Content::Tensor(*member) });
        at += bytes;
    }
    NewFile { name, bytes: at, pieces }
}

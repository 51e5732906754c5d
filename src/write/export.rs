//! Any checkpoint back to safetensors. A checkpoint that was saved from safetensors, or is such, gives the
//! very same files; any other is sharded anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use thiserror::Error;

use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::checkpoint::{
    Checkpoint, MAX_TOTAL_BYTES, Tensor, manifest, names, safetensors, select, shard_sets,
};
use crate::load::verify::read_digests;
use crate::os::cancel::Cancel;
use crate::os::digest::Digest;
use crate::os::progress::{Progress, Unit};
use crate::write::files::{Content, NewFile, Piece, write_files};
use crate::write::input;
use crate::write::save::{check_opens, check_space, explain_full_disk};
use crate::write::sidecars;
use crate::write::sidecars::{sync_folders, write_synced};
use crate::write::staging::Staging;
use crate::write::target;

const DEFAULT_SHARD_BYTES: u64 = 5 << 30;

/// Files to write, and the text of the shards' index, if there is one.
struct Shards {
    files: Vec<NewFile>,
    index: Option<(String, String)>,
}

/// The files that a checkpoint was saved from can't be made again from what is recorded of them; new shards can.
#[derive(Debug, Error)]
#[error("the recorded source (sllm_gds.json) does not fit: shard anew")]
pub struct Unfit;

/// What one export did.
#[derive(Debug)]
pub struct Exported {
    /// The weight files.
    pub files: Vec<PathBuf>,
    /// What was not copied along.
    pub left_out: Vec<String>,
}

/// Writes a safetensors directory.
pub fn export(
    checkpoint: Checkpoint,
    to: &Path,
    max_shard_bytes: Option<u64>,
    overwrite: bool,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Exported> {
    check_contiguous(&checkpoint)?;
    target::check_apart(to, &input::places(&checkpoint))?;
    let origin = input::origin(&checkpoint)?;
    let whole_origin =
        origin.as_ref().filter(|origin| origin.not_whole.is_none() && checkpoint.lost.is_empty());
    let shards = match (whole_origin, max_shard_bytes) {
        (Some(origin), None) => as_it_was(&checkpoint, origin)?,
        _ => sharded(&checkpoint, origin.as_ref(), max_shard_bytes.unwrap_or(DEFAULT_SHARD_BYTES))?,
    };
    let total_bytes = sum(shards.files.iter().map(|f| f.bytes))?;
    let beside = sidecars::of(&checkpoint)?;
    let needed_bytes = total_bytes.saturating_add(sidecars::bytes(&beside.carried));
    check_space(to, needed_bytes)?;
    let staging = Staging::new(to, overwrite)?;
    staging.notes.iter().for_each(|note| progress.note(note));
    let sizes: Vec<u64> = checkpoint.tensors.iter().map(Tensor::data_bytes).collect();
    let reader = TensorReader::new(checkpoint)?;
    let meter = progress.begin(&format!("export to {}", to.display()), total_bytes, Unit::Bytes);
    let written = write_files(staging.path(), &shards.files, &reader, &sizes, cancel, &meter)
        .map_err(|e| explain_full_disk(e, staging.path(), needed_bytes))
        .with_context(|| format!("export to {}", to.display()))?;
    check_copied(&reader, &written.tensors, cancel)?;
    sidecars::copy(&beside.carried, staging.path(), cancel)
        .map_err(|e| explain_full_disk(e, staging.path(), needed_bytes))?;
    if let Some((name, text)) = &shards.index {
        write_synced(&staging.path().join(name), text.as_bytes())?;
    }
    sync_folders(staging.path(), shards.files.iter().map(|file| file.name.as_str()))?;
    check(staging.path(), sizes.len())?;
    staging.publish()?;
    Ok(Exported { files: shards.files.iter().map(|f| to.join(&f.name)).collect(), left_out: beside.left_out })
}

fn check_contiguous(checkpoint: &Checkpoint) -> Result<()> {
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
    sum(checkpoint.tensors.iter().map(|t| t.data_bytes())).map(|_| ())
}

/// Safetensors holds tied tensors once for each name: what they come to together, where that can be.
fn sum(mut sizes: impl Iterator<Item = u64>) -> Result<u64> {
    let sum = sizes.try_fold(0u64, |sum, bytes| sum.checked_add(bytes));
    sum.filter(|bytes| *bytes <= MAX_TOTAL_BYTES).context("it would write more than any file system holds")
}

/// Holds what was copied against the manifest, where there is one. A tied tensor is copied, and so digested, under each
/// of its names; of one in a larger storage the digest is of all of that, which is read once more.
fn check_copied(reader: &TensorReader, copied: &[Digest], cancel: &Cancel) -> Result<()> {
    let checkpoint = &reader.checkpoint;
    let Some(manifest) = &checkpoint.manifest else { return Ok(()) };
    for (i, (tensor, copied)) in checkpoint.tensors.iter().zip(copied).enumerate() {
        let found = match tensor.data_bytes() == tensor.bytes {
            true => *copied,
            false => read_digests(&[tensor.bytes], &Only(reader, i), cancel)?[0],
        };
        if manifest.tensors.get(&tensor.name) != Some(&found) {
            bail!(
                "{} is damaged, and nothing was exported: tensor '{}' has the digest {found}, and its manifest says \
                 otherwise (`sllm-gds verify` tells where)",
                checkpoint.dir.display(),
                tensor.name
            );
        }
    }
    Ok(())
}

/// One tensor of a source.
struct Only<'a>(&'a TensorReader, usize);

impl TensorSource for Only<'_> {
    fn fill(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.fill(self.1, offset, out)
    }
}

/// A recorded source may be damaged: what it leads to must open, and lack no tensor.
fn check(written: &Path, tensors: usize) -> Result<()> {
    check_opens(written, tensors).context(Unfit)
}

/// The files that it was saved from, by their recorded headers.
fn as_it_was(checkpoint: &Checkpoint, origin: &manifest::Source) -> Result<Shards> {
    let path = checkpoint.dir.join(manifest::FILE);
    let mut files = Vec::new();
    let names: Vec<&String> =
        origin.shards.iter().map(|s| &s.file).chain(origin.index.iter().map(|i| &i.0)).collect();
    // Below is where the parts of a path are checked; a hidden name would be passed over by whoever reads it.
    let bad = |name: &&&String| {
        let is_hidden = name.split('/').any(|part| part.starts_with('.'));
        is_hidden || select::check_path(name).is_err() || names::is_own(name)
    };
    if let Some(name) = names.iter().find(bad) {
        return Err(crate::checkpoint::malformed(
            &path,
            format!("'{name}' can't be a file's name here: shard anew, by a largest shard size such as 5GB"),
        ));
    }
    if origin.shards.is_empty() {
        let what = "its recorded source names no files: shard anew, by a largest shard size such as 5GB";
        return Err(crate::checkpoint::malformed(&path, what));
    }
    let place_of: HashMap<&str, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    for shard in &origin.shards {
        let tensors = safetensors::header_tensors(&path, &shard.header)?;
        let mut order = Vec::new();
        for (spec, _, bytes) in &tensors {
            let found = place_of.get(spec.name.as_str()).copied().filter(|i| {
                let t = &checkpoint.tensors[*i];
                (t.dtype, t.data_bytes(), &t.shape) == (spec.dtype, *bytes, &spec.shape)
            });
            let Some(index) = found else {
                let what =
                    format!("the recorded header of {} does not fit tensor '{}'", shard.file, spec.name);
                return Err(crate::checkpoint::malformed(&path, what));
            };
            order.push(index);
        }
        // One shard of several that was saved by itself: under its old name the others would be missed.
        let alone = origin.shards.len() == 1 && origin.index.is_none();
        let name = if alone { shard_sets::alone(&shard.file) } else { shard.file.clone() };
        files.push(shard_file(name, &shard.header, checkpoint, &order));
    }
    Ok(Shards { files, index: origin.index.clone() })
}

/// New shards of at most `max_bytes`, named as transformers name them, with the metadata that the source had.
fn sharded(checkpoint: &Checkpoint, origin: Option<&manifest::Source>, max_bytes: u64) -> Result<Shards> {
    let shards = members_of_shards(checkpoint, max_bytes);
    let count = shards.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let metadata = metadata(origin);
    let mut weight_map = serde_json::Map::new();
    let mut files = Vec::new();
    let mut total_bytes = 0u64;
    for (i, members) in shards.iter().enumerate() {
        let tensors = members.iter().map(|m| &checkpoint.tensors[*m]);
        let header = safetensors::make_header(
            metadata.as_ref(),
            tensors.clone().map(|t| (t.name.as_str(), t.dtype, &t.shape[..], t.data_bytes())),
        );
        for tensor in tensors {
            weight_map.insert(tensor.name.clone(), name(i).into());
            total_bytes += tensor.data_bytes();
        }
        files.push(shard_file(name(i), &header, checkpoint, members));
    }
    let index = serde_json::json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
    let text = serde_json::to_string_pretty(&index)?;
    Ok(Shards { files, index: (count > 1).then(|| ("model.safetensors.index.json".into(), text)) })
}

/// Tensors by shard: none past `max_bytes` but for a single larger tensor, and no header past what readers take.
fn members_of_shards(checkpoint: &Checkpoint, max_bytes: u64) -> Vec<Vec<usize>> {
    let (mut shards, mut bytes, mut header_bytes): (Vec<Vec<usize>>, u64, u64) = (vec![Vec::new()], 0, 0);
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        // Escapes take up to six bytes for one; a shape's number up to 20.
        let entry_bytes = tensor.name.len() as u64 * 6 + tensor.shape.len() as u64 * 21 + 120;
        let full = bytes + tensor.data_bytes() > max_bytes
            || header_bytes + entry_bytes > safetensors::MAX_HEADER_BYTES / 2;
        match shards.last_mut() {
            Some(members) if members.is_empty() || !full => members.push(i),
            _ => {
                shards.push(vec![i]);
                (bytes, header_bytes) = (0, 0);
            }
        }
        bytes += tensor.data_bytes();
        header_bytes += entry_bytes;
    }
    shards
}

/// The metadata of all recorded headers; of a name that stands in several, the first text. Without a recorded source
/// (ServerlessLLM's own checkpoints) what transformers look for.
fn metadata(origin: Option<&manifest::Source>) -> Option<serde_json::Map<String, serde_json::Value>> {
    let Some(origin) = origin else {
        return serde_json::json!({"format": "pt"}).as_object().cloned();
    };
    let mut all: Option<serde_json::Map<String, serde_json::Value>> = None;
    for (name, text) in origin.shards.iter().filter_map(|s| safetensors::metadata_of(&s.header)).flatten() {
        all.get_or_insert_default().entry(name).or_insert(text);
    }
    all
}

fn shard_file(name: String, header: &str, checkpoint: &Checkpoint, members: &[usize]) -> NewFile {
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(header.as_bytes());
    let mut at = head.len() as u64;
    let mut pieces = vec![Piece { offset: 0, bytes: at, content: Content::Literal(head) }];
    for member in members {
        let bytes = checkpoint.tensors[*member].data_bytes();
        pieces.push(Piece { offset: at, bytes, content: Content::Tensor(*member) });
        at += bytes;
    }
    NewFile { name, bytes: at, pieces }
}

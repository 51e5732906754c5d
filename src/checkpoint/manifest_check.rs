//! Reading a manifest, and holding it against the files and the index beside it.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::checkpoint::listing::Bounds;
use crate::checkpoint::manifest::{Manifest, VERSION, check_known};
use crate::checkpoint::names::MANIFEST_FILE;
use crate::checkpoint::{DType, DataFile, Tensor, indexed, json, malformed, safetensors};
use crate::os::digest;

/// The manifest of a directory, if it has one.
pub(super) fn read(dir: &Path, bounds: &Bounds) -> Result<Option<Manifest>> {
    let path = dir.join(MANIFEST_FILE);
    match path.symlink_metadata() {
        Ok(_) => bounds.check(&path)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("look for {}", path.display())),
    }
    if indexed::is_marked(dir) {
        return Err(indexed::two_in_one(dir));
    }
    let manifest: Manifest = json::read(&path).or_else(|error| {
        // What it requires may be why it can't be read.
        let required: Requires = json::read(&path).unwrap_or_default();
        check_known(&path, &required.requires)?;
        Err(error)
    })?;
    check_known(&path, &manifest.requires)?;
    if manifest.version != VERSION || manifest.digest != digest::NAME {
        let what = format!(
            "written as version {} with digest '{}', and this program knows version {VERSION} with '{}'; use the \
             program that wrote it, or save again",
            manifest.version,
            manifest.digest,
            digest::NAME
        );
        return Err(malformed(&path, what));
    }
    Ok(Some(manifest))
}

#[derive(Default, Deserialize)]
struct Requires {
    #[serde(default)]
    requires: Vec<String>,
}

/// Holds the manifest against the files and the index beside it.
pub(super) fn check(manifest: &Manifest, path: &Path, files: &[DataFile], names: &[&str]) -> Result<()> {
    if manifest.chunk_bytes == 0 || !manifest.chunk_bytes.is_multiple_of(8) {
        return Err(malformed(path, format!("chunk_bytes is {}", manifest.chunk_bytes)));
    }
    if manifest.partitions.len() != files.len() {
        let which = match files.len() < manifest.partitions.len() {
            true => format!("{} is missing", manifest.partitions[files.len()].file),
            false => {
                let file = &files[manifest.partitions.len()].path;
                format!("{} is none of them: remove it if it is left from an earlier save", file.display())
            }
        };
        let what = format!(
            "records {} partitions, and {} are there: {which}",
            manifest.partitions.len(),
            files.len()
        );
        return Err(malformed(path, what));
    }
    for (partition, file) in manifest.partitions.iter().zip(files) {
        if partition.bytes != file.bytes {
            return Err(malformed(
                &file.path,
                format!(
                    "{} bytes long, and {} were written: it was cut short or grew; copy it anew, or save the model \
                     again",
                    file.bytes, partition.bytes
                ),
            ));
        }
        let digests = if manifest.is_packed() { 0 } else { partition.bytes.div_ceil(manifest.chunk_bytes) };
        if partition.digests.len() as u64 != digests {
            let what = format!("{} digests for {} bytes", partition.digests.len(), partition.bytes);
            return Err(malformed(path, format!("partition {}: {what}", partition.file)));
        }
    }
    let grouped: Vec<usize> = manifest.groups.iter().flatten().copied().collect();
    if grouped != (0..files.len()).collect::<Vec<_>>() {
        return Err(malformed(path, "its groups do not hold each partition once, in order"));
    }
    let named: HashSet<&str> = names.iter().copied().collect();
    let missing = names.iter().find(|name| !manifest.tensors.contains_key(**name));
    let extra = manifest.tensors.keys().find(|name| !named.contains(name.as_str()));
    match (missing, extra) {
        (Some(name), _) => Err(malformed(path, format!("has no digest of the tensor '{name}'"))),
        (None, Some(name)) => {
            Err(malformed(path, format!("names the tensor '{name}', which the index lacks")))
        }
        (None, None) => Ok(()),
    }
}

/// Refuses an index that is not the one that the manifest was saved with: types and shapes stand only there. Where the
/// manifest has no digest of it (version 0.1), the recorded headers of what it was saved from say the same.
pub(super) fn check_index(manifest: &Manifest, index: &Path, text: &[u8], tensors: &[Tensor]) -> Result<()> {
    let other = |how: String| {
        let file = index.file_name().unwrap_or_default().to_string_lossy();
        let what = format!(
            "{how}: it is another save's, or was changed since; copy {file} and {MANIFEST_FILE} of one save, or save the \
             model again"
        );
        malformed(index, what)
    };
    match manifest.index_digest {
        Some(wanted) if digest::digest(text) == wanted => return Ok(()),
        Some(_) => return Err(other(format!("not the index that {MANIFEST_FILE} was saved with"))),
        None => {}
    }
    let Some(source) = &manifest.source else { return Ok(()) };
    // A tensor may stand in several headers, of which one counted.
    let mut recorded: HashMap<String, Vec<(DType, Vec<u64>)>> = HashMap::new();
    for shard in &source.shards {
        // A header that can't be read says nothing; `export` says what is wrong with it.
        for (spec, ..) in safetensors::header_tensors(index, &shard.header).unwrap_or_default() {
            recorded.entry(spec.name).or_default().push((spec.dtype, spec.shape));
        }
    }
    let fits = |tensor: &&Tensor| {
        recorded.get(&tensor.name).is_none_or(|specs| {
            let is_it = |(dtype, shape): &(DType, Vec<u64>)| *dtype == tensor.dtype && *shape == tensor.shape;
            tensor.is_contiguous() && specs.iter().any(is_it)
        })
    };
    match tensors.iter().find(|tensor| !fits(tensor)) {
        Some(tensor) => Err(other(format!(
            "tensor '{}' has not the type, shape and strides of what {MANIFEST_FILE} was saved from",
            tensor.name
        ))),
        None => Ok(()),
    }
}

/// Parts the index's aliases from what are the model's own tensors, which are returned. An alias must be what it stands for.
pub(super) fn without_aliases(
    manifest: &mut Manifest,
    index: &Path,
    tensors: Vec<Tensor>,
) -> Result<Vec<Tensor>> {
    if manifest.aliases.is_empty() {
        return Ok(tensors);
    }
    let (aliases, own): (Vec<Tensor>, Vec<Tensor>) =
        tensors.into_iter().partition(|tensor| manifest.aliases.contains_key(&tensor.name));
    let own_by_name: HashMap<&str, &Tensor> =
        own.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let is_same = |alias: &Tensor| {
        let original = own_by_name.get(manifest.aliases.get(&alias.name)?.as_str())?;
        Some(Tensor { name: alias.name.clone(), ..(*original).clone() } == *alias)
    };
    let bad = aliases.iter().find(|alias| is_same(alias) != Some(true)).map(|alias| &alias.name);
    let absent = manifest.aliases.keys().find(|name| aliases.iter().all(|alias| alias.name != **name));
    if let Some(name) = bad.or(absent) {
        let what = format!(
            "{MANIFEST_FILE} says that '{name}' stands for another tensor, and it is not there or not that: copy both of one \
             save, or save the model again"
        );
        return Err(malformed(index, what));
    }
    manifest.tensors.retain(|name, _| !manifest.aliases.contains_key(name));
    Ok(own)
}

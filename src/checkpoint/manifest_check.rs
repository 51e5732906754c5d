//! Reading a manifest, and holding it against the files and the index beside it.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::listing::Bounds;
use crate::checkpoint::manifest::{Manifest, VERSION, check_known};
use crate::checkpoint::names::MANIFEST_FILE;
use crate::checkpoint::{DType, DataFile, Tensor, indexed, json, malformed, safetensors};
use crate::os::digest;

/// The manifest of a directory, if it has one.
pub(super) fn read(dir: &Path, bounds: &Bounds) -> Result<Option<Manifest>> {
    let Some(path) = find(dir, bounds)? else { return Ok(None) };
    let manifest: Manifest = parse(&path)?;
    check_version(&path, manifest.version, &manifest.digest, &manifest.requires)?;
    Ok(Some(manifest))
}

/// Holds files against the lengths that a directory's manifest records, if it has one, for whoever reads no tensors: nothing
/// else of it is kept.
pub(super) fn check_lengths_in(dir: &Path, bounds: &Bounds, files: &[DataFile]) -> Result<()> {
    #[derive(Deserialize)]
    struct Lengths {
        version: u32,
        digest: String,
        #[serde(default)]
        requires: Vec<String>,
        partitions: Vec<Length>,
    }
    #[derive(Deserialize)]
    struct Length {
        file: String,
        bytes: u64,
    }
    let Some(path) = find(dir, bounds)? else { return Ok(()) };
    let Lengths { version, digest, requires, partitions } = parse(&path)?;
    check_version(&path, version, &digest, &requires)?;
    let recorded: Vec<_> = partitions.iter().map(|length| (length.file.as_str(), length.bytes)).collect();
    check_lengths(&recorded, &path, files)
}

/// Where the manifest of a directory is, if it has one.
fn find(dir: &Path, bounds: &Bounds) -> Result<Option<PathBuf>> {
    let path = dir.join(MANIFEST_FILE);
    match path.symlink_metadata() {
        Ok(_) => bounds.check(&path)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("look for {}", path.display())),
    }
    if indexed::is_marked(dir) {
        return Err(indexed::two_in_one(dir));
    }
    Ok(Some(path))
}

/// All of a manifest, or a part of it.
fn parse<T: DeserializeOwned>(path: &Path) -> Result<T> {
    #[derive(Default, Deserialize)]
    struct Requires {
        #[serde(default)]
        requires: Vec<String>,
    }
    json::read(path).or_else(|error| {
        // What it requires may be why it can't be read.
        let required: Requires = json::read(path).unwrap_or_default();
        check_known(path, &required.requires)?;
        Err(error)
    })
}

/// Refuses what this program does not know how to read.
fn check_version(path: &Path, version: u32, digest: &str, requires: &[String]) -> Result<()> {
    check_known(path, requires)?;
    if version != VERSION || digest != digest::NAME {
        let what = format!(
            "written as version {version} with digest '{digest}', and this program knows version {VERSION} with '{}'; use \
             the program that wrote it, or save again",
            digest::NAME
        );
        return Err(malformed(path, what));
    }
    Ok(())
}

/// Holds the manifest against the files and the index beside it.
pub(super) fn check(manifest: &Manifest, path: &Path, files: &[DataFile], names: &[&str]) -> Result<()> {
    if manifest.chunk_bytes == 0 || !manifest.chunk_bytes.is_multiple_of(8) {
        return Err(malformed(path, format!("chunk_bytes is {}", manifest.chunk_bytes)));
    }
    let recorded: Vec<_> = manifest.partitions.iter().map(|part| (part.file.as_str(), part.bytes)).collect();
    check_lengths(&recorded, path, files)?;
    for partition in &manifest.partitions {
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

/// Refuses files that are not as many, or not as long, as these that were recorded.
fn check_lengths(recorded: &[(&str, u64)], path: &Path, files: &[DataFile]) -> Result<()> {
    if recorded.len() != files.len() {
        let which = match files.get(recorded.len()) {
            None => format!("{} is missing", recorded[files.len()].0),
            Some(file) => {
                format!(
                    "{} is none of them: remove it if it is left from an earlier save",
                    file.path.display()
                )
            }
        };
        let what = format!("records {} partitions, and {} are there: {which}", recorded.len(), files.len());
        return Err(malformed(path, what));
    }
    match recorded.iter().zip(files).find(|((_, bytes), file)| *bytes != file.bytes) {
        None => Ok(()),
        Some(((_, bytes), file)) => Err(malformed(
            &file.path,
            format!(
                "{} bytes long, and {bytes} were written: it was cut short or grew; copy it anew, or save the model again",
                file.bytes
            ),
        )),
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

//! An index over a directory of safetensors files, which stay as they are: with it a store server hands them to
//! ServerlessLLM's clients, and there is no second copy on disk.
//!
//! It lies among the files, or in a directory of its own that holds links to them and to what lies beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::checkpoint::indexed::{self, Indexed, Shard};
use crate::checkpoint::listing::{self, Bounds};
use crate::checkpoint::names::{INDEX_FILE, MANIFEST_FILE, partition_name};
use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::checkpoint::served::served;
use crate::checkpoint::{Checkpoint, DataFile, Tensor, json, safetensors};
use crate::load::verify::{Digests, read_digests};
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::sys;
use crate::write::for_clients::{ForClients, Named, for_clients};
use crate::write::in_place::Gate;
use crate::write::input::places;
use crate::write::sidecars::{self, Sidecar, sync_folders, write_synced};
use crate::write::staging::Staging;
use crate::write::target;
use crate::write::tensor_index::{Placed, tensor_index};

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// The directory of the index.
    pub path: PathBuf,
    /// The files that were written.
    pub files: Vec<String>,
    /// Links to files of the other directory.
    pub links: Vec<String>,
    /// Whether all of it was there already, and nothing was written.
    pub unchanged: bool,
    /// Tensors in the index, aliases not counted.
    pub tensors: usize,
    /// Bytes of the safetensors files that it counts over.
    pub bytes: u64,
    /// The safetensors files.
    pub shards: Vec<String>,
    /// Entries for tied weights by the tensor that they share.
    pub aliases: BTreeMap<String, String>,
    /// What a user should hear.
    pub notes: Vec<String>,
}

/// Writes an index over the safetensors files in `dir`, there or into a new directory. An index that was written before is
/// replaced, and nothing else is.
pub fn index(
    dir: &Path,
    storage_path: &Path,
    to: Option<&Path>,
    with_digests: bool,
    cancel: &Cancel,
) -> Result<Written> {
    let checkpoint = Checkpoint::read_safetensors(dir, Some(storage_path))?.whole()?;
    let beside = sidecars::of(&checkpoint)?.carried;
    let made = what_clients_need(&checkpoint, &beside)?;
    let (mut mark, files) = contents(&checkpoint, &made, with_digests, cancel)?;
    let Done { links, unchanged, notes } = match to {
        None => among_the_files(&checkpoint, &mut mark, files)?,
        Some(to) => beside_the_files(&checkpoint, &mut mark, files, &beside, to)?,
    };
    let names = mark.wrote.keys().cloned().chain([MANIFEST_FILE.to_string()]);
    let path = to.unwrap_or(dir).to_path_buf();
    let of_place = note_of_place(&path, storage_path);
    Ok(Written {
        files: names.collect(),
        links,
        unchanged,
        tensors: checkpoint.tensors.len(),
        bytes: checkpoint.file_bytes(),
        shards: mark.shards.into_iter().map(|shard| shard.file).collect(),
        aliases: mark.aliases,
        notes: notes
            .into_iter()
            .chain(checkpoint.notes_of_parts())
            .chain(made.notes)
            .chain(of_place)
            .collect(),
        path,
    })
}

/// Names and texts of files.
type Files = Vec<(String, Vec<u8>)>;

/// How the writing went.
#[derive(Default)]
struct Done {
    links: Vec<String>,
    unchanged: bool,
    notes: Vec<String>,
}

fn what_clients_need(checkpoint: &Checkpoint, beside: &[Sidecar]) -> Result<ForClients> {
    let tensors: Vec<Named> = checkpoint
        .tensors
        .iter()
        .map(|t| Named { name: &t.name, dtype: t.dtype, bytes: t.bytes, tied_to: None })
        .collect();
    let config =
        beside.iter().find(|sidecar| sidecar.name == "config.json").map(Sidecar::read).transpose()?;
    let brought = |name: &str| beside.iter().any(|sidecar| sidecar.name == name);
    let mut made = for_clients(&tensors, config.as_deref(), &brought);
    if config.is_none() {
        made.notes
            .push("there is no config.json, without which ServerlessLLM's load_model builds no model".into());
    }
    Ok(made)
}

/// The mark of an index that lies among the files, and what goes beside it: the index last, so that where it is, all is.
fn contents(
    checkpoint: &Checkpoint,
    made: &ForClients,
    with_digests: bool,
    cancel: &Cancel,
) -> Result<(Indexed, Files)> {
    let tensors = &checkpoint.tensors;
    let own = tensors.iter().map(|tensor| placed(tensor, &tensor.name));
    let aliases = made.aliases.iter().map(|alias| placed(&tensors[alias.of], &alias.name));
    let index = tensor_index(own.chain(aliases))?;
    let mut files: Files =
        made.files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes())).collect();
    files.push((INDEX_FILE.to_string(), index));
    let mark = Indexed {
        aliases: made.aliases.iter().map(|a| (a.name.clone(), tensors[a.of].name.clone())).collect(),
        digest: digest::NAME.to_string(),
        links: Vec::new(),
        over: None,
        shards: checkpoint.files.iter().map(|file| shard(checkpoint, file)).collect::<Result<_>>()?,
        tensors: if with_digests { digests(checkpoint, cancel)? } else { Digests::new() },
        wrote: files.iter().map(|(name, text)| (name.clone(), digest::digest(text))).collect(),
    };
    Ok((mark, files))
}

fn placed<'a>(tensor: &'a Tensor, name: &'a str) -> Placed<'a> {
    let Tensor { dtype, shape, stride, offset, bytes, .. } = tensor;
    Placed { name, dtype: *dtype, shape, stride, offset: *offset, bytes: *bytes }
}

/// What a file is now, which must be what the checkpoint was opened by.
fn shard(checkpoint: &Checkpoint, file: &DataFile) -> Result<Shard> {
    let (bytes, header) = safetensors::read_header(&file.path)?;
    let handle = sys::open_regular(&file.path).with_context(|| format!("open {}", file.path.display()))?;
    file.check_unchanged(&handle)?;
    Ok(Shard { file: checkpoint.name_of(file), bytes, header_digest: digest::digest(header.as_bytes()) })
}

/// A digest of each tensor, from one read of all of them.
fn digests(checkpoint: &Checkpoint, cancel: &Cancel) -> Result<Digests> {
    let reader = TensorReader::new(checkpoint.clone())?;
    let sizes: Vec<u64> = checkpoint.tensors.iter().map(|tensor| tensor.bytes).collect();
    let digests = read_digests(&sizes, &reader, cancel)?;
    reader.check_unchanged()?;
    Ok(checkpoint.names().map(str::to_string).zip(digests).collect())
}

/// Puts the index among the files.
fn among_the_files(checkpoint: &Checkpoint, mark: &mut Indexed, files: Files) -> Result<Done> {
    let dir = &checkpoint.dir;
    let gate = Gate::new(dir)?;
    // Another run may have written it since the checkpoint was opened.
    let before = mark_in(dir, checkpoint)?;
    if let Some(over) = before.as_ref().filter(|before| before.over.is_some()) {
        bail!(
            "{} holds links and an index over {}: name that, and this as the directory for the index",
            dir.display(),
            over.root(dir).display()
        );
    }
    let kept = keep_digests(checkpoint, before.as_ref(), mark);
    let notes = gate.notes.iter().cloned().chain(kept).collect();
    // The index goes first and comes last: it is never there without its mark.
    let mut old = before.as_ref().map(|before| before.own_files(dir)).unwrap_or_default();
    old.sort_by_key(|name| name != INDEX_FILE);
    let mut new = vec![(MANIFEST_FILE.to_string(), mark.to_text()?.into_bytes())];
    new.extend(files);
    let is_there = |name: &str| dir.join(name).symlink_metadata().is_ok();
    let first = partition_name(0);
    let names = new.iter().map(|(name, _)| name.as_str()).chain([first.as_str()]);
    if let Some(name) = names.into_iter().find(|name| is_there(name) && !old.iter().any(|own| own == name)) {
        bail!(
            "{} is not of an index that was written here, or was changed since, and is not replaced: move it away, or \
             write the index into another directory",
            dir.join(name).display()
        );
    }
    let is_same = |(name, text): &(String, Vec<u8>)| {
        json::read_bytes(&dir.join(name)).is_ok_and(|there| there == *text)
    };
    if old.len() == new.len() && new.iter().all(is_same) {
        return Ok(Done { unchanged: true, notes, ..Done::default() });
    }
    gate.replace(&old, &new)?;
    check_served(dir, checkpoint)?;
    Ok(Done { notes, ..Done::default() })
}

/// The mark of an index in a directory, if there is one.
fn mark_in(dir: &Path, checkpoint: &Checkpoint) -> Result<Option<Indexed>> {
    indexed::read(dir, &Bounds::new(dir, checkpoint.storage_path.as_deref())?)
}

/// Takes over the digests of the index that is replaced, unless new ones were made or the files are not what they were; says so.
fn keep_digests(checkpoint: &Checkpoint, before: Option<&Indexed>, mark: &mut Indexed) -> Option<String> {
    let before = before.filter(|before| !before.tensors.is_empty() && mark.tensors.is_empty())?;
    let names: BTreeSet<&str> = checkpoint.names().collect();
    if before.shards == mark.shards && before.tensors.keys().eq(names) {
        mark.tensors = before.tensors.clone();
        return Some(
            "the digests of its tensors are those of the last time: index with digests to make them anew"
                .into(),
        );
    }
    Some(
        "the digests of its tensors were of other files and are gone: index with digests to make them anew"
            .into(),
    )
}

/// Puts the index into a directory of its own, with links to the files and to what lies beside them.
fn beside_the_files(
    checkpoint: &Checkpoint,
    mark: &mut Indexed,
    files: Files,
    beside: &[Sidecar],
    to: &Path,
) -> Result<Done> {
    target::check_apart(to, &places(checkpoint))?;
    let before = replaceable(to, checkpoint)?;
    let kept = keep_digests(checkpoint, before.as_ref(), mark);
    let staging = Staging::new(to, true)?;
    let real = |path: &Path| path.canonicalize().with_context(|| format!("resolve {}", path.display()));
    let (here, there) = (real(staging.path())?, real(&checkpoint.dir)?);
    let index = checkpoint.chosen.index.iter().map(|(name, _)| name.clone());
    let linked = mark.shards.iter().map(|shard| shard.file.clone()).chain(index);
    mark.links = linked.chain(beside.iter().map(|sidecar| sidecar.name.clone())).collect();
    for name in &mark.links {
        link(&here.join(name), &there.join(name))?;
    }
    let over = way(&here, &there);
    mark.over = Some(over.to_str().with_context(|| format!("{} is not UTF-8", there.display()))?.to_string());
    for (name, text) in &files {
        write_synced(&here.join(name), text)?;
    }
    write_synced(&here.join(MANIFEST_FILE), mark.to_text()?.as_bytes())?;
    sync_folders(&here, mark.links.iter().map(String::as_str))?;
    check_served(&here, checkpoint).with_context(|| {
        format!(
            "a server could not follow the links from {} to {}: let both lie below its storage path, and say which that is",
            to.display(),
            there.display()
        )
    })?;
    let notes = staging.notes.iter().cloned().chain(kept).collect();
    let done = Done { links: mark.links.clone(), notes, ..Done::default() };
    staging.publish()?;
    Ok(done)
}

/// The index over another directory that may be replaced; refuses a directory that holds anything else.
fn replaceable(to: &Path, checkpoint: &Checkpoint) -> Result<Option<Indexed>> {
    let Some(about) = target::standing(to)? else { return Ok(None) };
    if about.is_dir() && listing::list(to)?.is_empty() {
        return Ok(None);
    }
    let mark = if about.is_dir() { mark_in(to, checkpoint)? } else { None };
    match mark.filter(|mark| mark.over.is_some()) {
        Some(mark) => Ok(Some(mark)),
        None => bail!(
            "{} exists, and is no index over another directory, so it is not replaced: choose another name",
            to.display()
        ),
    }
}

/// Says where a server with this storage path would not find it.
fn note_of_place(path: &Path, storage_path: &Path) -> Option<String> {
    let is_below = match (path.canonicalize(), storage_path.canonicalize()) {
        (Ok(path), Ok(storage_path)) => path.starts_with(&storage_path),
        _ => false,
    };
    let (path, storage_path) = (path.display(), storage_path.display());
    (!is_below).then(|| {
        format!("{path} does not lie below {storage_path}: a store server finds it only where its own storage path holds it")
    })
}

fn link(at: &Path, to: &Path) -> Result<()> {
    let folder = at.parent().with_context(|| format!("{} has no place", at.display()))?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    symlink(way(folder, to), at).with_context(|| format!("link {} to {}", at.display(), to.display()))
}

/// The way from a directory to a path, both absolute and without links: relative where they have a folder in common, so that
/// both may be moved or mounted elsewhere together, else absolute.
fn way(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if common < 2 {
        return to.to_path_buf();
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// What was written must be what a server hands out, and open as the same tensors.
fn check_served(dir: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let storage_path = checkpoint.storage_path.as_deref();
    let found = served(dir, storage_path)?;
    let sizes = |files: &[DataFile]| files.iter().map(|file| file.bytes).collect::<Vec<_>>();
    let opened = Checkpoint::open_below(dir, storage_path)?;
    if sizes(&found.files) != sizes(&checkpoint.files) || opened.tensors != checkpoint.tensors {
        bail!("{} changed while it was indexed: wait until nobody writes it, and try again", dir.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_relative_where_there_is_a_folder_in_common() {
        for (from, to, wanted) in [
            ("/models/other", "/models/hf", "../hf"),
            ("/models/a/b", "/models/a/b/c", "c"),
            ("/models/a", "/models", ".."),
            ("/models/a", "/cache/hub/x", "/cache/hub/x"),
        ] {
            assert_eq!(way(Path::new(from), Path::new(to)), Path::new(wanted), "{from} {to}");
        }
    }
}

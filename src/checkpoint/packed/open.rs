//! Opening a packed checkpoint: its index, its manifest and its files, held against each other.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::error::malformed;
use crate::checkpoint::listing::{self, Bounds};
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::names::{INDEX_FILE, MANIFEST_FILE, PACKED_INDEX_FILE, is_weights};
use crate::checkpoint::packed::index::Index;
use crate::checkpoint::packed::map::{Packed, PackedFile};
use crate::checkpoint::{Checkpoint, Chosen, DataFile, Layout, Stamp, finish, json, manifest_check, sllm};
use crate::os::sys;

/// Whether a directory holds a packed checkpoint's index.
pub fn is_in(dir: &Path) -> Result<bool> {
    let index = dir.join(PACKED_INDEX_FILE);
    match index.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(sys::at(&index)(e)).with_context(|| format!("look for {}", index.display())),
    }
}

pub fn open(dir: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
    let bounds = Bounds::new(dir, storage_path)?;
    let path = dir.join(PACKED_INDEX_FILE);
    bounds.check(&path)?;
    if dir.join(INDEX_FILE).symlink_metadata().is_ok() {
        let what = format!(
            "{INDEX_FILE} stands beside it: keep the checkpoint that you mean, and move the other away"
        );
        return Err(malformed(&path, what));
    }
    let text = json::read_bytes(&path)?;
    let index: Index = json::parse(&path, &text)?;
    index.check(&path)?;
    let manifest = manifest(dir, &bounds)?;
    let files = files(dir, &path, &index)?;
    files.iter().try_for_each(|file| bounds.check(&file.path))?;
    let packed = Packed {
        files: index
            .files
            .iter()
            .map(|f| PackedFile::new(f.decoded_bytes, f.chunks.iter().copied()))
            .collect(),
    };
    check_lengths(dir, &manifest, &files, &packed, &index)?;
    let tensors = index.tensors.into_iter().map(|(name, entry)| sllm::tensor(&path, name, entry));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    manifest_check::check_index(&manifest, &path, &text, &tensors)?;
    let mut left_out = listing::top(dir)?;
    left_out.retain(|name| is_weights(name) && !name.starts_with('.'));
    let checkpoint = Checkpoint {
        dir: dir.to_path_buf(),
        layout: Layout::Packed,
        files,
        packed: Some(Arc::new(packed)),
        tensors: tensors.into(),
        manifest: Some(Arc::new(manifest)),
        lost: Vec::new(),
        chosen: Chosen { left_out, ..Chosen::default() },
        storage_path: storage_path.map(Path::to_path_buf),
    };
    let checkpoint = finish(checkpoint, &path)?;
    sllm::check_within_files(&checkpoint, &path)?;
    Ok(checkpoint)
}

/// The manifest, without which nobody knows what the tensors should be.
fn manifest(dir: &Path, bounds: &Bounds) -> Result<Manifest> {
    let path = dir.join(MANIFEST_FILE);
    let Some(manifest) = manifest_check::read(dir, bounds)? else {
        return Err(malformed(&path, "missing beside packed weights: copy it from where those are from"));
    };
    match manifest.is_packed() && manifest.index_digest.is_some() {
        true => Ok(manifest),
        false => {
            Err(malformed(&path, format!("not of packed weights, and {PACKED_INDEX_FILE} stands beside it")))
        }
    }
}

/// The files as they unpack, each with what the system says of it.
fn files(dir: &Path, index_path: &Path, index: &Index) -> Result<Vec<DataFile>> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut base = 0u64;
    for entry in &index.files {
        let path = dir.join(&entry.file);
        let about = match path.metadata() {
            Ok(about) if about.is_file() => about,
            Ok(_) => return Err(malformed(&path, "not a regular file")),
            Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                return Err(malformed(
                    &path,
                    format!("missing: {PACKED_INDEX_FILE} names it; copy it there"),
                ));
            }
            Err(e) => return Err(sys::at(&path)(e)).with_context(|| format!("stat {}", path.display())),
        };
        let bytes = entry.decoded_bytes;
        files.push(DataFile { path, base, bytes, header_bytes: 0, stamp: Stamp::of(&about) });
        base =
            base.checked_add(bytes).ok_or_else(|| malformed(index_path, "partitions exceed 2^64 bytes"))?;
    }
    Ok(files)
}

/// Holds the files' lengths, and the names in the index, against the manifest.
fn check_lengths(
    dir: &Path,
    manifest: &Manifest,
    files: &[DataFile],
    packed: &Packed,
    index: &Index,
) -> Result<()> {
    let stored: Vec<DataFile> =
        files.iter().map(|file| DataFile { bytes: file.stamp.bytes(), ..file.clone() }).collect();
    let names: Vec<&str> = index.tensors.iter().map(|(name, _)| name.as_str()).collect();
    manifest_check::check(manifest, &dir.join(MANIFEST_FILE), &stored, &names)?;
    for (file, packed) in stored.iter().zip(&packed.files) {
        if packed.stored_bytes() != file.bytes {
            let what = format!("{} bytes long, and its chunks have {}", file.bytes, packed.stored_bytes());
            return Err(malformed(&file.path, format!("{what}: copy it anew, or pack the model again")));
        }
    }
    Ok(())
}

//! Files that go beside the weights: found with a checkpoint, and copied into a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::{Checkpoint, Stamp, beside, json, listing};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::sys;

/// A file that goes beside the weights.
pub struct Sidecar {
    /// Its path from the checkpoint's directory.
    pub name: String,
    pub content: Content,
}

pub enum Content {
    /// A file, as it was when the weights were opened.
    Copy(PathBuf, Stamp),
    Text(String),
}

impl Sidecar {
    /// One of this name and text.
    pub fn text((name, text): &(String, String)) -> Sidecar {
        Sidecar { name: name.clone(), content: Content::Text(text.clone()) }
    }

    /// What it holds, which must be text.
    pub fn read(&self) -> Result<String> {
        match &self.content {
            Content::Copy(path, _) => json::read_text(path),
            Content::Text(text) => Ok(text.clone()),
        }
    }

    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Copy(_, stamp) => stamp.bytes(),
            Content::Text(text) => text.len() as u64,
        }
    }
}

/// Bytes of all of these.
pub fn bytes(sidecars: &[Sidecar]) -> u64 {
    sidecars.iter().map(Sidecar::bytes).sum()
}

/// What lies beside a checkpoint's weights.
#[derive(Default)]
pub struct Sidecars {
    pub carried: Vec<Sidecar>,
    /// Names of what is not carried along.
    pub left_out: Vec<String>,
}

/// Finds what goes beside a checkpoint's weights. A link that leads nowhere or out of bounds is refused.
pub fn of(checkpoint: &Checkpoint) -> Result<Sidecars> {
    let bounds = listing::Bounds::new(&checkpoint.dir, checkpoint.storage_path.as_deref())?;
    let found = if checkpoint.chosen.single_file {
        let mut carried = listing::top(&checkpoint.dir)?;
        carried.retain(|name| beside::is_config_or_tokenizer(name));
        beside::Beside { carried, left_out: Vec::new() }
    } else {
        let below = listing::files_below(&checkpoint.dir)?;
        let read = |name: &str| {
            let path = checkpoint.dir.join(name);
            bounds.check(&path)?;
            json::read_text(&path)
        };
        let modules = beside::modules(&below.names, &read)?;
        let mut found =
            beside::beside(&below.names, &checkpoint.all_own_files(), &checkpoint.chosen.left_out, &modules);
        found.left_out.extend(below.unreadable);
        found
    };
    let mut sidecars = Sidecars { carried: Vec::new(), left_out: found.left_out };
    for name in found.carried {
        let path = checkpoint.dir.join(&name);
        bounds.check(&path)?;
        let about = path.metadata().with_context(|| format!("stat {}", path.display()))?;
        match about.is_file() {
            true => sidecars.carried.push(Sidecar { name, content: Content::Copy(path, Stamp::of(&about)) }),
            // A socket or a pipe; folders are not entered twice.
            false if !about.is_dir() => sidecars.left_out.push(name),
            false => {}
        }
    }
    Ok(sidecars)
}

/// Copies the files beside the weights, never over a file that is there. The digest of each.
pub(super) fn copy(sidecars: &[Sidecar], dir: &Path, cancel: &Cancel) -> Result<BTreeMap<String, Digest>> {
    let mut digests = BTreeMap::new();
    for sidecar in sidecars {
        let to = dir.join(&sidecar.name);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let digest = match &sidecar.content {
            Content::Text(text) => {
                write_synced(&to, text.as_bytes())?;
                digest::digest(text.as_bytes())
            }
            Content::Copy(from, stamp) => copy_file(from, stamp, &to, cancel)?,
        };
        digests.insert(sidecar.name.clone(), digest);
    }
    sync_folders(dir, sidecars.iter().map(|sidecar| sidecar.name.as_str()))?;
    Ok(digests)
}

/// Makes the entries of the folders durable that these paths go through.
pub(super) fn sync_folders<'a>(dir: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let folders: BTreeSet<&Path> = names
        .flat_map(|name| Path::new(name).ancestors().skip(1))
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    for folder in folders {
        let path = dir.join(folder);
        sys::sync_dir(&path).with_context(|| format!("sync {}", path.display()))?;
    }
    Ok(())
}

/// Streamed: a file beside the weights may be large. One that changed since the weights were opened may belong to others.
fn copy_file(from: &Path, stamp: &Stamp, to: &Path, cancel: &Cancel) -> Result<Digest> {
    let mut source = sys::open_regular(from).with_context(|| format!("open {}", from.display()))?;
    let mut target = create_new(to)?;
    let copied = in_blocks(&mut source, |block| {
        if cancel.is_set() {
            return Err(std::io::Error::other(Interrupted));
        }
        target.write_all(block)
    });
    if cancel.is_set() {
        bail!(Interrupted);
    }
    let digest = copied.with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    stamp.check(from, &source)?;
    target.sync_all().with_context(|| format!("sync {}", to.display()))?;
    Ok(digest)
}

/// The digest of a file's bytes.
pub(super) fn digest_of(path: &Path) -> Result<Digest> {
    let mut file = sys::open_regular(path).with_context(|| format!("open {}", path.display()))?;
    in_blocks(&mut file, |_| Ok(())).with_context(|| format!("read {}", path.display()))
}

/// Hands over what a file holds, block by block, and digests it.
fn in_blocks(file: &mut File, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<Digest> {
    const BLOCK_BYTES: u64 = 4 << 20;
    let (mut block, mut sum, mut bytes) = (Vec::new(), 0u64, 0u64);
    loop {
        block.clear();
        // Filled to the end, so that every block but the last has whole words.
        let read = Read::by_ref(file).take(BLOCK_BYTES).read_to_end(&mut block)? as u64;
        if read == 0 {
            return Ok(digest::finish(sum, bytes));
        }
        take(&block)?;
        sum = sum.wrapping_add(digest::partial(&block, bytes));
        bytes += read;
        if read < BLOCK_BYTES {
            return Ok(digest::finish(sum, bytes));
        }
    }
}

fn create_new(path: &Path) -> Result<File> {
    let created = File::options().write(true).create_new(true).open(path);
    created.with_context(|| format!("create {}, which must not be there yet", path.display()))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("write {}", path.display()))
}

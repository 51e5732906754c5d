//! Directories that appear whole or not at all: filled under a hidden name beside, synced, then renamed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{beside, manifest, select, sllm};

use crate::sys;

const MARK: &str = ".sllm-gds-partial-";

/// A directory in the making. Dropped before [`Staging::publish`], it is removed. A killed process leaves it
/// behind unlocked, and the next save beside it clears it.
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
    overwrite: bool,
    /// Held (flock) while the directory is ours, so that others can tell it from remains.
    _lock: File,
    done: bool,
}

impl Staging {
    /// Makes the hidden directory beside `target`, clearing the remains of killed saves there first.
    pub fn new(target: &Path, overwrite: bool) -> Result<Staging> {
        check_free(target, overwrite)?;
        let parent = parent_of(target);
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        // One at a time here: no save may take another's new directory for remains before it is locked.
        let gate = File::open(parent).with_context(|| format!("open {}", parent.display()))?;
        gate.lock().with_context(|| format!("lock {}", parent.display()))?;
        clear_remains(parent)?;
        let name = target.file_name().context("a checkpoint needs a name")?.to_string_lossy();
        let path = parent.join(format!("{MARK}{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = File::open(&path).and_then(|f| f.lock().map(|()| f));
        let lock = lock.with_context(|| format!("lock {}", path.display()))?;
        Ok(Staging { path, target: target.to_path_buf(), overwrite, _lock: lock, done: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the directory and puts it in its place, in one step also where something stood there.
    pub fn publish(mut self) -> Result<()> {
        let mut place = || -> std::io::Result<()> {
            sys::sync_dir(&self.path)?;
            if self.overwrite && self.target.exists() {
                // After the exchange our hidden name holds the old checkpoint, which Drop removes.
                sys::exchange(&self.path, &self.target)?;
            } else {
                sys::rename_new(&self.path, &self.target)?;
                self.done = true;
            }
            sys::sync_dir(parent_of(&self.target))
        };
        match place() {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "{} exists: another save made it meanwhile; choose another name, or replace it with --overwrite",
                self.target.display()
            ),
            placed => {
                placed.with_context(|| format!("put the finished checkpoint at {}", self.target.display()))
            }
        }
    }
}

/// Refuses a target that stands already, unless it is a checkpoint (or an empty directory) that may be
/// replaced. Nothing else is ever replaced.
pub fn check_free(target: &Path, overwrite: bool) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    if !overwrite {
        bail!("{} exists: choose another name, or replace it with --overwrite", target.display());
    }
    if !target.is_dir() {
        bail!("{} is a file", target.display());
    }
    let files = everything_below(target)?;
    let recorded = recorded_files(target);
    let is_known = |name: &String| match &recorded {
        Some(recorded) => recorded.contains(name.as_str()),
        None => beside::is_a_checkpoints(name),
    };
    let has_weights = files.iter().any(|n| n.ends_with(select::SUFFIX) || beside::is_own(n));
    let other = files.iter().find(|name| !is_known(name)).or(files.first().filter(|_| !has_weights));
    if let Some(other) = other {
        bail!(
            "{} holds other things than one checkpoint, such as {other}, and --overwrite does not delete those: remove \
             it yourself, or choose another name",
            target.display()
        );
    }
    Ok(())
}

/// All files and links below, hidden ones too, by their paths; of an empty folder its own, with a `/`.
fn everything_below(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut left = vec![(dir.to_path_buf(), String::new())];
    while let Some((dir, prefix)) = left.pop() {
        let entries = super::list(&dir)?;
        if entries.is_empty() && !prefix.is_empty() {
            found.push(prefix.clone());
        }
        for path in entries {
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            match path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
                true => left.push((path, format!("{name}/"))),
                false => found.push(name),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a save wrote into a directory, by its manifest; `None` where no manifest says.
fn recorded_files(dir: &Path) -> Option<HashSet<String>> {
    #[derive(Deserialize)]
    struct Part {
        file: String,
    }
    #[derive(Deserialize)]
    struct Recorded {
        partitions: Vec<Part>,
        beside: Vec<String>,
    }
    let recorded: Recorded = super::json::read(&dir.join(manifest::FILE)).ok()?;
    let parts = recorded.partitions.into_iter().map(|part| part.file);
    let own = [manifest::FILE, sllm::INDEX_FILE].map(str::to_string);
    Some(parts.chain(recorded.beside).chain(own).collect())
}

/// Refuses a target that is the source, holds it or lies in it: writing there would replace what is read.
pub fn check_apart(target: &Path, sources: &[PathBuf]) -> Result<()> {
    let target_real = real_place(target)?;
    for source in sources {
        let source_real = source.canonicalize().with_context(|| format!("resolve {}", source.display()))?;
        let how = if source_real == target_real {
            "is"
        } else if is_within(&source_real, &target_real) {
            "holds"
        } else if is_within(&target_real, &source_real) {
            "lies in"
        } else {
            continue;
        };
        bail!(
            "{} {how} {}, from which is read: name another place (--storage-path, --name or --to); nothing was changed",
            target.display(),
            source.display()
        );
    }
    Ok(())
}

/// Where a path leads that may not be there yet.
fn real_place(path: &Path) -> Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        match at.canonicalize() {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(e) if e.kind() == ErrorKind::NotFound && !at.is_symlink() => {}
            Err(e) => return Err(e).with_context(|| format!("resolve {}", at.display())),
        }
        missing.push(at.file_name().with_context(|| format!("{} names no directory", path.display()))?);
        at = parent_of(at);
    }
}

/// Whether `path` lies below `dir`, by name or, as with bind mounts, by what a folder is.
fn is_within(path: &Path, dir: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|about| (about.dev(), about.ino()));
    let wanted = identity(dir);
    path.starts_with(dir) || path.ancestors().any(|above| wanted.is_some() && identity(above) == wanted)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays is cleared by the next save.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes hidden directories whose makers are gone.
fn clear_remains(parent: &Path) -> Result<()> {
    for path in super::list(parent)? {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MARK));
        if ours && path.is_dir() && File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok()) {
            fs::remove_dir_all(&path).with_context(|| format!("clear the remains {}", path.display()))?;
        }
    }
    Ok(())
}

/// Joins a name such as `facebook/opt-125m` below a directory, and refuses names that would leave it.
pub fn place(storage_path: &Path, name: &str) -> Result<PathBuf> {
    let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || !plain || name.starts_with('.') || name.contains("/.") || name.ends_with('/') {
        bail!(
            "'{name}' can't name a checkpoint: use letters, digits and single slashes, as in facebook/opt-125m"
        );
    }
    Ok(storage_path.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_whole_or_removed() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let target = dir.path().join("a/b");
        let staging = Staging::new(&target, false).unwrap();
        fs::write(staging.path().join("model.safetensors"), "new").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0, "an abandoned one leaves nothing");
        let staging = Staging::new(&target, false).unwrap();
        fs::write(staging.path().join("model.safetensors"), "new").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read_to_string(target.join("model.safetensors")).unwrap(), "new");
        assert!(Staging::new(&target, false).is_err());
        let staging = Staging::new(&target, true).unwrap();
        fs::write(staging.path().join("model.safetensors"), "newer").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read_to_string(target.join("model.safetensors")).unwrap(), "newer");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1, "the old one is gone");
    }

    #[test]
    fn remains_are_cleared_and_living_ones_kept() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let remains = dir.path().join(format!("{MARK}x-1"));
        fs::create_dir(&remains).unwrap();
        let first = Staging::new(&dir.path().join("one"), false).unwrap();
        assert!(!remains.exists());
        let second = Staging::new(&dir.path().join("two"), false).unwrap();
        assert!(first.path().exists() && second.path().exists());
    }

    #[test]
    fn names_stay_below_the_storage_path() {
        for bad in ["", ".", "..", "../x", "/x", "a/../b", ".hidden", "a/", "a/.x"] {
            assert!(place(Path::new("m"), bad).is_err(), "{bad}");
        }
        assert_eq!(place(Path::new("m"), "a/b").unwrap(), Path::new("m/a/b"));
    }
}

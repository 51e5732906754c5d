//! Directories that appear whole or not at all: filled under a hidden name beside, synced, then renamed.

use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

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
    let entries =
        if target.is_dir() { super::list(target)? } else { bail!("{} is a file", target.display()) };
    let is_weight = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name == super::sllm::INDEX_FILE || name == super::manifest::FILE
    };
    let is_checkpoint = entries.iter().any(is_weight) && !entries.iter().any(|path| path.is_dir());
    if !entries.is_empty() && !is_checkpoint {
        bail!(
            "{} holds other things than one checkpoint, and --overwrite does not delete those: remove it yourself, or \
             choose another name",
            target.display()
        );
    }
    Ok(())
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

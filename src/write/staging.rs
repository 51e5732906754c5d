//! Directories that appear whole or not at all: filled under a hidden name beside, synced, then renamed.
//!
//! Where the file system can't swap two directories in one step, a replaced one goes aside as `.sllm-gds-old-<name>` first.
//! Killed in between, its name is missing until the next save beside puts it back; it is never half there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::os::remains;
use crate::os::remains::{Maker, OLD_MARK, aside_of};
use crate::os::sys;
use crate::write::target::{check_free, parent_of, standing};

pub(super) const MARK: &str = ".sllm-gds-partial-";

/// A directory in the making. Dropped before [`Staging::publish`], it is removed. A killed process leaves it
/// behind unlocked, and the next save beside it clears it.
pub struct Staging {
    path: PathBuf,
    /// No symbolic link: what it led to.
    target: PathBuf,
    overwrite: bool,
    /// Held while the directory is ours, so that others can tell it from remains.
    _lock: Option<File>,
    done: bool,
    /// What of killed saves' remains could not be cleared.
    pub notes: Vec<String>,
}

impl Staging {
    /// Makes the hidden directory beside `target`, clearing the remains of killed saves there first.
    pub fn new(target: &Path, overwrite: bool) -> Result<Staging> {
        check_free(target, overwrite)?;
        let target = &resolve(target)?;
        let parent = parent_of(target);
        create_lasting(parent).with_context(|| format!("create {}", parent.display()))?;
        let name = target.file_name().context("a checkpoint needs a name")?;
        // One at a time here: no save may take another's new directory for remains before it is locked.
        let _gate = remains::lock(parent)?;
        let notes = clear_remains(parent)?;
        // What an overwrite cut short had moved aside is back now.
        check_free(target, overwrite)?;
        let path = parent.join(remains::hidden_name(MARK, name));
        fs::create_dir(&path).with_context(|| {
            format!(
                "write to {} (a checkpoint is made beside its place; name one that may be written to)",
                parent.display()
            )
        })?;
        let target_path = target.to_path_buf();
        let mut staging = Staging { path, target: target_path, overwrite, _lock: None, done: false, notes };
        staging._lock = remains::lock(&staging.path)?;
        if standing(target)?.is_some() {
            staging.check_movable()?;
        }
        Ok(staging)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks before the first byte whether the old one may be moved, by a rename that can't come true: onto a directory
    /// that is not empty.
    fn check_movable(&mut self) -> Result<()> {
        let probe = self.path.join("probe");
        fs::create_dir(&probe).with_context(|| format!("create {}", probe.display()))?;
        let asked = fs::rename(&self.target, &self.path);
        if asked.is_ok() {
            // No file system should; nothing here may be removed then.
            self.done = true;
            let place = self.path.display();
            fs::rename(&self.path, &self.target)
                .with_context(|| format!("move {place} back; do it yourself"))?;
            bail!(
                "{}: its file system can't replace directories safely: choose another name",
                self.target.display()
            );
        }
        fs::remove_dir(&probe).with_context(|| format!("remove {}", probe.display()))?;
        match asked {
            Err(e) if !is_taken(&e) => Err(e).with_context(|| {
                format!(
                    "{} can't be replaced: it can't be moved away, as one in a container's image or of another user; choose \
                     another name",
                    self.target.display()
                )
            }),
            _ => Ok(()),
        }
    }

    /// Syncs the directory and puts it in its place, in one step where the file system can. On an error what stood
    /// there stands again.
    pub fn publish(mut self) -> Result<()> {
        let at = format!("put the finished checkpoint at {}", self.target.display());
        sys::sync_dir(&self.path).with_context(|| at.clone())?;
        // No other save may move what we move meanwhile.
        let _gate = remains::lock(parent_of(&self.target))?;
        let replaces = self.overwrite && standing(&self.target)?.is_some();
        if replaces {
            // It may be another thing than when we began.
            check_free(&self.target, true)?;
        }
        match self.place(replaces) {
            Err(e) if !replaces && is_taken(&e) => bail!(
                "{} exists: another save made it meanwhile; choose another name, or overwrite it",
                self.target.display()
            ),
            placed => placed.context(at),
        }
    }

    fn place(&mut self, replaces: bool) -> io::Result<()> {
        if replaces {
            // Our hidden name holds the old checkpoint then, which Drop removes.
            swap(&self.path, &self.target)?;
        } else {
            move_new(&self.path, &self.target)?;
            self.done = true;
        }
        let Err(error) = sys::sync_dir(parent_of(&self.target)) else { return Ok(()) };
        // It may not last, so it must not cost the old one.
        let undone =
            if replaces { swap(&self.path, &self.target) } else { fs::rename(&self.target, &self.path) };
        self.done = undone.is_err();
        Err(error)
    }
}

/// Swaps the new directory and the old one; on an error both stand where they stood.
fn swap(new: &Path, target: &Path) -> io::Result<()> {
    match sys::exchange(new, target) {
        Err(e) if sys::is_unsupported(&e) => {}
        swapped => return swapped,
    }
    let aside = aside_of(target);
    fs::rename(target, &aside)?;
    let to_new = || fs::rename(&aside, new).inspect_err(|_| drop(fs::rename(target, new)));
    fs::rename(new, target).and_then(|()| to_new()).inspect_err(|_| drop(fs::rename(&aside, target)))
}

/// Renames, unless something stands at the target: then [`is_taken`].
fn move_new(new: &Path, target: &Path) -> io::Result<()> {
    match sys::rename_new(new, target) {
        Err(e) if sys::is_unsupported(&e) => {}
        moved => return moved,
    }
    // A plain rename of a directory replaces nothing but an empty one, and we hold the gate.
    match target.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(new, target),
        Err(e) => Err(e),
    }
}

/// Whether a rename failed since something stands at the new name.
fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

/// A link to a checkpoint stays, and what it leads to is replaced.
fn resolve(target: &Path) -> Result<PathBuf> {
    match target.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => {
            target.canonicalize().with_context(|| format!("resolve {}", target.display()))
        }
        _ => Ok(target.to_path_buf()),
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays is cleared by the next save.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a directory and those above it that are missing, so that they outlast a power failure.
fn create_lasting(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|above| above.symlink_metadata().is_err()).collect();
    fs::create_dir_all(dir)?;
    missing
        .iter()
        .rev()
        .filter(|made| made.file_name().is_some())
        .try_for_each(|made| sys::sync_dir(parent_of(made)))
}

/// Removes hidden directories whose makers are gone, and puts back old checkpoints that an overwrite cut short had moved
/// aside. Gives notes of what can't be done, which stops nobody.
pub(super) fn clear_remains(parent: &Path) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for path in crate::checkpoint::list(parent)? {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        if let Some(target) = name.strip_prefix(OLD_MARK.as_bytes()).filter(|name| is_dir && !name.is_empty())
        {
            notes.extend(restore(&path, &parent.join(OsStr::from_bytes(target))));
        } else if is_dir && name.starts_with(MARK.as_bytes()) {
            match remains::maker(&path) {
                Maker::Lives => {}
                Maker::Gone => {
                    if let Err(e) = fs::remove_dir_all(&path) {
                        notes.push(format!(
                            "can't clear the remains {}, remove them yourself: {e}",
                            path.display()
                        ));
                    }
                }
                Maker::Unknown(why) => {
                    notes.push(format!("{} stays; remove it if no save is at it: {why}", path.display()));
                }
            }
        }
    }
    Ok(notes)
}

/// Puts an old checkpoint back, or removes it where the new one stands; says what could not be done.
fn restore(aside: &Path, target: &Path) -> Option<String> {
    let restored = match fs::rename(aside, target) {
        Err(e) if is_taken(&e) && crate::checkpoint::Checkpoint::read(target).is_ok() => {
            // Under another name first: half removed, it must not be put back.
            let gone = parent_of(target).join(remains::hidden_name(MARK, OsStr::new("old")));
            fs::rename(aside, &gone).and_then(|()| fs::remove_dir_all(gone))
        }
        other => other,
    };
    let (aside, target) = (aside.display(), target.display());
    restored.err().map(|e| {
        format!("{aside} stays; it is the old {target} of an overwrite cut short, and can't be put back: {e}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file with one byte.
    fn model(byte: u8) -> Vec<u8> {
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &[byte]].concat()
    }

    #[test]
    fn published_whole_or_removed() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let target = dir.path().join("a/b");
        let staging = Staging::new(&target, false).unwrap();
        fs::write(staging.path().join("model.safetensors"), model(1)).unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0, "an abandoned one leaves nothing");
        let staging = Staging::new(&target, false).unwrap();
        fs::write(staging.path().join("model.safetensors"), model(1)).unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), model(1));
        assert!(Staging::new(&target, false).is_err());
        let staging = Staging::new(&target, true).unwrap();
        fs::write(staging.path().join("model.safetensors"), model(2)).unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), model(2));
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
}

//! The hidden directory that everything is written in, below the path given, and removed again.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::os::remains;
use crate::os::remains::Maker;

const MARK: &str = ".sllm-gds-qualify-";

/// What was to hold the directory is none itself.
#[derive(Debug)]
pub struct NotADirectory;

impl fmt::Display for NotADirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a directory: name the one whose drive is to be measured")
    }
}

impl std::error::Error for NotADirectory {}

/// Removed when dropped. A killed process leaves it behind unlocked, and the next run on that path clears it.
pub struct ScratchDirectory {
    dir: TempDir,
    /// What the user should know of it.
    pub notes: Vec<String>,
    /// Held while the directory is ours, so that others can tell it from remains.
    _lock: Option<File>,
}

impl ScratchDirectory {
    /// Refuses a path that is no writable directory, or that another run is measuring. Errors leave it to the caller to
    /// name the path.
    pub fn new(path: &Path) -> Result<ScratchDirectory> {
        let remedy = "name a directory that can be written to";
        let metadata = path.metadata().context(remedy)?;
        if !metadata.is_dir() {
            bail!(NotADirectory);
        }
        let path = &path.canonicalize().context(remedy)?;
        // One at a time here: no run may take another's new directory for remains before it is locked.
        let _gate = remains::lock(path).context(remedy)?;
        let notes = clear_remains(path).context(remedy)?;
        let name = remains::hidden_name(MARK, OsStr::new("run"));
        let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(path).context(remedy)?;
        let lock = remains::lock(dir.path()).context(remedy)?;
        Ok(ScratchDirectory { dir, notes, _lock: lock })
    }

    /// A new directory in it.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Removes a [`ScratchDirectory::subdirectory`], to have its space again.
    pub fn clear(&self, subdirectory: &Path) -> Result<()> {
        fs::remove_dir_all(subdirectory).with_context(|| format!("remove {}", subdirectory.display()))
    }

    /// Removes everything, and says so where that fails.
    pub fn remove(self) -> Result<()> {
        let path = self.dir.path().to_path_buf();
        self.dir.close().with_context(|| format!("remove {}", path.display()))
    }
}

/// Removes what killed runs left, and returns notes of what it had to leave; refuses to run beside a living one, since
/// both would measure each other.
fn clear_remains(path: &Path) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(MARK) || !entry.file_type()?.is_dir() {
            continue;
        }
        match remains::maker(&entry.path()) {
            Maker::Gone => {}
            Maker::Lives => bail!("another qualify measures here ({}): wait for it", entry.path().display()),
            Maker::Unknown(why) => {
                let path = entry.path();
                notes.push(format!("{} stays; remove it if no qualify is at it: {why}", path.display()));
                continue;
            }
        }
        fs::remove_dir_all(entry.path())
            .with_context(|| format!("clear the remains {}", entry.path().display()))?;
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn dropped_or_removed_it_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = ScratchDirectory::new(dir.path()).unwrap();
        let raw = scratch.subdirectory("raw").unwrap();
        fs::write(raw.join("file"), "x").unwrap();
        assert_eq!(names(dir.path()), 1);
        scratch.clear(&raw).unwrap();
        assert!(!raw.exists());
        drop(scratch);
        assert_eq!(names(dir.path()), 0);
        ScratchDirectory::new(dir.path()).unwrap().remove().unwrap();
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn remains_are_cleared_and_a_living_run_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(format!("{MARK}dead"))).unwrap();
        let scratch = ScratchDirectory::new(dir.path()).unwrap();
        assert_eq!(names(dir.path()), 1, "the dead one is gone");
        let second = format!("{:#}", ScratchDirectory::new(dir.path()).err().unwrap());
        assert!(second.contains("another qualify"), "{second}");
        drop(scratch);
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, says) in [(file, "not a directory"), (dir.path().join("none"), "name a directory")] {
            let error = format!("{:#}", ScratchDirectory::new(&path).err().unwrap());
            assert!(error.contains(says), "{error}");
        }
    }
}

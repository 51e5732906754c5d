//! Files of ours in a directory that stays: all of the new ones or all of the old ones, and never one that is somebody else's.
//!
//! Killed in between, some are missing, and none is of another time than the others.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::os::remains;
use crate::os::sys;
use crate::write::sidecars::write_synced;
use crate::write::staging::{MARK, clear_remains};

/// A directory that no other run changes while this is there: what is read in it before a replacement holds for that.
pub struct Gate<'d> {
    dir: &'d Path,
    _lock: Option<fs::File>,
    /// What of killed runs' remains could not be cleared.
    pub notes: Vec<String>,
}

impl<'d> Gate<'d> {
    /// Waits until no other run is at the directory, nor makes one in it; then clears what killed ones left.
    pub fn new(dir: &'d Path) -> Result<Gate<'d>> {
        let lock = remains::lock(dir)?;
        let notes = clear_remains(dir)?;
        Ok(Gate { dir, _lock: lock, notes })
    }

    /// Takes `old` files out of the directory and puts `new` ones (name and text) there. They go in the order in which they are
    /// named, and come in theirs. On an error everything is as it was.
    pub fn replace(&self, old: &[String], new: &[(String, Vec<u8>)]) -> Result<()> {
        let hidden = Hidden::new(self.dir)?;
        for (name, text) in new {
            write_synced(&hidden.fresh(name), text)?;
        }
        let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
        let done = move_all(self.dir, &hidden, old, new, &mut moved);
        if done.is_err() {
            // Best effort, in the reverse order: the error tells what happened.
            for (from, to) in moved.iter().rev() {
                let _ = sys::rename_new(to, from).or_else(|_| fs::rename(to, from));
            }
        }
        done.with_context(|| format!("write the index into {}", self.dir.display()))
    }
}

/// Moves files, and notes from where to where each went.
fn move_all(
    dir: &Path,
    hidden: &Hidden,
    old: &[String],
    new: &[(String, Vec<u8>)],
    moved: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    let going = old.iter().map(|name| (dir.join(name), hidden.stale(name)));
    let coming = new.iter().map(|(name, _)| (hidden.fresh(name), dir.join(name)));
    for (from, to) in going.chain(coming) {
        rename_new(&from, &to)?;
        moved.push((from, to));
        // Each lasts before the next is made: no loss of power leaves an index without its mark.
        sys::sync_dir(dir)?;
    }
    Ok(())
}

/// Renames a file, never over another.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match sys::rename_new(from, to) {
        Err(e) if sys::is_unsupported(&e) => {}
        renamed => return renamed,
    }
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(e) => Err(e),
    }
}

/// A hidden directory for what comes and what goes, removed at the end.
struct Hidden {
    path: PathBuf,
    /// Held while the directory is ours, so that others can tell it from remains.
    _lock: Option<fs::File>,
}

impl Hidden {
    fn new(dir: &Path) -> Result<Hidden> {
        let path = dir.join(remains::hidden_name(MARK, OsStr::new("index")));
        fs::create_dir(&path).with_context(|| {
            format!(
                "write to {} (if it may not be written to, write the index into another directory)",
                dir.display()
            )
        })?;
        let mut hidden = Hidden { path, _lock: None };
        hidden._lock = remains::lock(&hidden.path)?;
        Ok(hidden)
    }

    fn fresh(&self, name: &str) -> PathBuf {
        self.path.join(format!("new-{name}"))
    }

    fn stale(&self, name: &str) -> PathBuf {
        self.path.join(format!("old-{name}"))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Best effort: what stays is cleared by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let listed = crate::checkpoint::list(dir).unwrap();
        listed.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn all_are_replaced_or_none() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b", "theirs"] {
            fs::write(at(name), "old").unwrap();
        }
        let new =
            |names: &[&str]| names.iter().map(|name| (name.to_string(), b"new".to_vec())).collect::<Vec<_>>();
        let old = ["a", "b"].map(str::to_string);
        let gate = Gate::new(dir.path()).unwrap();
        // The second of them is somebody else's: the first must not stay, and what went must come back.
        let error = gate.replace(&old, &new(&["c", "theirs"])).unwrap_err();
        assert!(format!("{error:#}").contains("write the index into"), "{error:#}");
        assert_eq!(names(dir.path()), ["a", "b", "theirs"]);
        assert!(["a", "b", "theirs"].iter().all(|name| fs::read(at(name)).unwrap() == b"old"));
        gate.replace(&old, &new(&["c", "a"])).unwrap();
        assert_eq!(names(dir.path()), ["a", "c", "theirs"]);
        assert_eq!(fs::read(at("a")).unwrap(), b"new");
    }

    #[test]
    fn remains_of_a_killed_run_are_cleared() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let remains = dir.path().join(format!("{MARK}index-1"));
        fs::create_dir(&remains).unwrap();
        Gate::new(dir.path()).unwrap();
        assert!(!remains.exists());
    }
}

//! Hidden directories that killed processes leave, told from those of living ones by locks (flock), which end with their
//! holder. Where locks can't tell, nothing is ever taken for remains.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::os::sys;

/// How the name of an old directory begins while a new one takes its place.
pub const OLD_MARK: &str = ".sllm-gds-old-";

/// Bytes of a name that go into a hidden one: names end at 255.
const NAME_BYTES: usize = 128;

/// Whether the process that made a hidden directory still lives.
#[derive(Debug, PartialEq, Eq)]
pub enum Maker {
    Gone,
    Lives,
    /// Why it can't be told.
    Unknown(String),
}

/// Waits for a directory's lock, which lasts as long as the file. `None` where its file system has none.
pub fn lock(dir: &Path) -> Result<Option<File>> {
    let file = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    match file.lock() {
        Ok(()) => Ok(Some(file)),
        Err(e) if sys::has_no_locks(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("lock {}", dir.display())),
    }
}

/// A hidden name that no other process takes, and that tells which start of which machine it is from.
pub fn hidden_name(mark: &str, name: &OsStr) -> OsString {
    let name = OsStr::from_bytes(&name.as_bytes()[..name.len().min(NAME_BYTES)]);
    let mut hidden = OsString::from(mark);
    hidden.push(name);
    hidden.push(format!("-{}-{}.{:08x}", this_start(), std::process::id(), fastrand::u32(..)));
    hidden
}

/// Where an old directory is moved for the moment that a new one takes its place.
pub fn aside_of(target: &Path) -> PathBuf {
    let mut name = OsString::from(OLD_MARK);
    name.push(target.file_name().unwrap_or_default());
    target.with_file_name(name)
}

/// The old directory of this name, where an overwrite was killed while it was moved aside.
pub fn set_aside(target: &Path) -> Option<PathBuf> {
    target.file_name()?;
    Some(aside_of(target)).filter(|aside| aside.is_dir())
}

/// Looks whether the maker of a directory with a [`hidden_name`] is gone.
pub fn maker(dir: &Path) -> Maker {
    let file = match File::open(dir) {
        Ok(file) => file,
        Err(e) => return Maker::Unknown(format!("it can't be opened: {e}")),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Maker::Lives,
        Err(TryLockError::Error(e)) => {
            Maker::Unknown(format!("its file system has no locks that could tell: {e}"))
        }
        // Network file systems keep locks of directories to each machine.
        Ok(()) if !is_from_this_start(dir) && !sys::is_local(&file) => {
            Maker::Unknown("another machine may be at it, and its file system does not tell".into())
        }
        Ok(()) => Maker::Gone,
    }
}

fn is_from_this_start(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('-').nth(1).is_some_and(|start| start == this_start()) && this_start() != UNKNOWN_START
}

const UNKNOWN_START: &str = "unknown";

/// Names this start of this kernel: the reach of a local lock, whatever containers there are.
fn this_start() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.get(..8).unwrap_or(UNKNOWN_START).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_tell_where_they_are_from() {
        let [a, b] = [0; 2].map(|_| hidden_name(".mark-", OsStr::new("x-y")));
        assert_ne!(a, b);
        assert!(a.to_string_lossy().starts_with(".mark-x-y-"));
        assert!(is_from_this_start(Path::new(&a)) || this_start() == UNKNOWN_START);
        for other in [".mark-x-1", ".mark-x-00000000-17.00000000", ".mark-"] {
            assert!(!is_from_this_start(Path::new(other)), "{other}");
        }
        assert!(hidden_name(".mark-", OsStr::new(&"x".repeat(255))).len() < 255);
    }

    #[test]
    fn a_lock_tells_the_living_from_the_dead() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join(hidden_name(".mark-", OsStr::new("x")));
        std::fs::create_dir(&path).unwrap();
        assert_eq!(maker(&path), Maker::Gone);
        let Some(lock) = lock(&path).unwrap() else { return eprintln!("skipped: no locks here") };
        assert_eq!(maker(&path), Maker::Lives);
        drop(lock);
        assert_eq!(maker(&path), Maker::Gone);
        assert!(matches!(maker(&dir.path().join("none")), Maker::Unknown(_)));
    }
}

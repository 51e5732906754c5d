//! What `stat` says of a file before anything is read of it, to tell afterwards that it is still the same.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::checkpoint::error::malformed;
use crate::os::sys;

/// Tells a file that was replaced or written to from what it was; all zero where it was not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    /// That of a file which is there.
    pub fn of(about: &Metadata) -> Stamp {
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            device: about.dev(),
            inode: about.ino(),
            bytes: about.len(),
            modified_ns: ns(about.mtime(), about.mtime_nsec()),
            changed_ns: ns(about.ctime(), about.ctime_nsec()),
        }
    }

    /// How long the file was.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Refuses a file that is another by now: what was read of it may be half old, half new.
    pub fn check(&self, path: &Path, handle: &File) -> Result<()> {
        let about =
            handle.metadata().map_err(sys::at(path)).with_context(|| format!("stat {}", path.display()))?;
        if *self != Stamp::default() && Stamp::of(&about) != *self {
            return Err(malformed(
                path,
                "changed while it was read: wait until nobody writes it, and try again",
            ));
        }
        Ok(())
    }
}

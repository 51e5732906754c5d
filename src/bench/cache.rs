//! The page cache before a load: emptied where the load is meant to be cold, and measured in any case.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::sys;

/// Drops a checkpoint's data files from the page cache; dirty pages are written back first.
pub fn evict(dir: &Path) -> Result<()> {
    for file in Checkpoint::open(dir)?.files {
        let drop = || -> std::io::Result<()> {
            let file = File::open(&file.path)?;
            file.sync_all()?;
            sys::evict(&file)
        };
        drop().with_context(|| format!("evict {} from the page cache", file.path.display()))?;
    }
    Ok(())
}

/// The share of a checkpoint's bytes that the page cache holds, or `None` where the kernel does not tell.
pub fn resident_share(dir: &Path) -> Result<Option<f64>> {
    let files = Checkpoint::open(dir)?.files;
    let mut resident_bytes = 0u64;
    for file in &files {
        let handle = File::open(&file.path).with_context(|| format!("open {}", file.path.display()))?;
        match sys::resident_bytes(&handle, 0, file.bytes) {
            Some(bytes) => resident_bytes += bytes,
            None => return Ok(None),
        }
    }
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    Ok(Some(if bytes == 0 { 0.0 } else { resident_bytes as f64 / bytes as f64 }))
}

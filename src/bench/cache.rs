//! The page cache before a load: emptied where the load is meant to be cold, filled where it is meant to be warm,
//! and measured in any case.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::os::residency;

/// A checkpoint's data files, held open: to open the checkpoint again would bring its headers back.
pub struct Files(Vec<(PathBuf, File, u64)>);

impl Files {
    pub fn open(dir: &Path) -> Result<Files> {
        let open = |file: crate::checkpoint::DataFile| {
            let handle = File::open(&file.path).with_context(|| format!("open {}", file.path.display()))?;
            Ok((file.path, handle, file.bytes))
        };
        Ok(Files(Checkpoint::read(dir)?.files.into_iter().map(open).collect::<Result<_>>()?))
    }

    /// Drops them from the page cache; dirty pages are written back first.
    pub fn evict(&self) -> Result<()> {
        for (path, file, _) in &self.0 {
            let drop = || file.sync_all().and_then(|()| residency::evict(file));
            drop().with_context(|| format!("evict {} from the page cache", path.display()))?;
        }
        Ok(())
    }

    /// Reads them once from start to end, so that the page cache holds what it has room for.
    pub fn warm(&self) -> Result<()> {
        let mut buffer = vec![0u8; 1 << 20];
        for (path, file, bytes) in &self.0 {
            if residency::resident_bytes(file, 0, *bytes) == Some(*bytes) {
                continue;
            }
            let mut reader = file;
            let mut read = || -> std::io::Result<()> {
                std::io::Seek::rewind(&mut reader)?;
                while reader.read(&mut buffer)? > 0 {}
                Ok(())
            };
            read().with_context(|| format!("read {} into the page cache", path.display()))?;
        }
        Ok(())
    }

    /// The share of their bytes that the page cache holds, or `None` where the kernel does not tell.
    pub fn resident_share(&self) -> Option<f64> {
        let mut resident_bytes = 0u64;
        for (_, file, bytes) in &self.0 {
            resident_bytes += residency::resident_bytes(file, 0, *bytes)?;
        }
        let bytes: u64 = self.0.iter().map(|(_, _, bytes)| bytes).sum();
        Some(if bytes == 0 { 0.0 } else { resident_bytes as f64 / bytes as f64 })
    }
}

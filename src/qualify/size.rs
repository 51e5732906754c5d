//! How many bytes to measure with: of the raw file and of the checkpoint, which lie there one after the other.

use std::path::Path;

use anyhow::{Context, Result};

use crate::node::memory::available_bytes;
use crate::os::sys;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::raw;
use crate::qualify::workload;

const DEFAULT_BYTES: u64 = 8 << 30;

/// Bytes that are free, where a run writes and where it loads to.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    pub disk_bytes: u64,
    /// Of the fullest GPU; without GPUs, of this machine.
    pub memory_bytes: u64,
}

impl Free {
    pub fn now(path: &Path, gpus: &[QualifiedGpu]) -> Result<Free> {
        let free = gpus.iter().map(|gpu| Ok(gpu.gpu.memory_info()?.0)).collect::<Result<Vec<u64>>>()?;
        let memory_bytes = free.into_iter().min().or_else(available_bytes).unwrap_or(u64::MAX);
        let disk_bytes =
            sys::free_bytes(path).with_context(|| format!("ask for free space at {}", path.display()))?;
        Ok(Free { disk_bytes, memory_bytes })
    }

    /// What is taken where nobody asks for a size: no more than a quarter of either.
    pub fn default_bytes(&self) -> u64 {
        DEFAULT_BYTES.min(self.disk_bytes / 4).min(self.memory_bytes / 4)
    }
}

/// Whether a raw file and a checkpoint can be made of so little.
pub fn is_enough(bytes: u64) -> bool {
    raw::file_bytes(bytes) > 0 && workload::of(bytes).is_ok()
}

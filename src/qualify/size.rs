//! How many bytes to measure with: of the raw file and of the checkpoint, which lie there one after the other.

use std::path::Path;

use anyhow::{Context, Result};

use crate::node::memory::available_bytes;
use crate::os::sys;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::raw;
use crate::qualify::workload;

const DEFAULT_BYTES: u64 = 8 << 30;
/// What a default shrinks to at most: of less, the start of a load is a large part.
const SHRUNK_MIN_BYTES: u64 = 256 << 20;

/// Bytes that are free, where a run writes and where it loads to.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    pub disk_bytes: u64,
    /// Of the fullest GPU; without GPUs, of this machine.
    pub memory_bytes: u64,
}

/// Why there is nothing to measure with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a size of {asked} bytes is too little to measure with: name at least {least_mib}MB")]
    TooLittle { asked: u64, least_mib: u64 },
    #[error(
        "a quarter of what is free ({disk_bytes} bytes of disk, {memory_bytes} of memory) is too little to measure with: \
         make room, or name a size of at least {least_mib}MB"
    )]
    NoRoom { disk_bytes: u64, memory_bytes: u64, least_mib: u64 },
    #[error(
        "a size of {asked} bytes does not fit into the memory to load to, which has {free} bytes free: name a smaller size"
    )]
    Memory { asked: u64, free: u64 },
}

impl Free {
    pub fn now(path: &Path, gpus: &[QualifiedGpu]) -> Result<Free> {
        let free = gpus.iter().map(|gpu| Ok(gpu.gpu.memory_info()?.0)).collect::<Result<Vec<u64>>>()?;
        let memory_bytes = free.into_iter().min().or_else(available_bytes).unwrap_or(u64::MAX);
        let disk_bytes =
            sys::free_bytes(path).with_context(|| format!("ask for free space at {}", path.display()))?;
        Ok(Free { disk_bytes, memory_bytes })
    }

    /// What was asked for; else the most that is usual and takes no more than a quarter of what is free. Whether the disk
    /// has room for what was asked for is left to [`crate::write::save::check_space`].
    pub fn size(&self, asked: Option<u64>) -> Result<u64, Refused> {
        let Free { disk_bytes, memory_bytes } = *self;
        let least_mib = least_mib();
        let size = match asked {
            Some(asked) if !is_enough(asked) => return Err(Refused::TooLittle { asked, least_mib }),
            Some(asked) => asked,
            None => DEFAULT_BYTES.min(disk_bytes / 4).min(memory_bytes / 4),
        };
        match size {
            size if !is_enough(size) => Err(Refused::NoRoom { disk_bytes, memory_bytes, least_mib }),
            size if size > memory_bytes => Err(Refused::Memory { asked: size, free: memory_bytes }),
            size => Ok(size),
        }
    }
}

/// A default that is made to fit into the time: what fits of it, rounded, but no less than what is worth measuring.
pub fn shrunk(default_bytes: u64, fitting_bytes: u64) -> u64 {
    let fitting = raw::file_bytes(fitting_bytes).max(SHRUNK_MIN_BYTES);
    default_bytes.min(fitting)
}

/// Whether a raw file and a checkpoint can be made of so little.
fn is_enough(bytes: u64) -> bool {
    raw::file_bytes(bytes) > 0 && workload::of(bytes).is_ok()
}

/// What is named in errors: the least that is enough.
fn least_mib() -> u64 {
    workload::least_mib().unwrap_or(0).max(raw::FILE_BYTES_MIN >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_refused_before_any_work() {
        let free = |disk_bytes, memory_bytes| Free { disk_bytes, memory_bytes };
        let roomy = free(1 << 40, 1 << 40);
        assert_eq!(roomy.size(None), Ok(DEFAULT_BYTES));
        assert_eq!(free(4 << 30, 1 << 40).size(None), Ok(1 << 30));
        assert!(matches!(roomy.size(Some(1 << 20)), Err(Refused::TooLittle { asked: 0x10_0000, .. })));
        assert!(matches!(free(1 << 20, 1 << 40).size(None), Err(Refused::NoRoom { .. })));
        let too_large = 2 << 40;
        let small = free(4 << 40, 1 << 30);
        assert_eq!(small.size(Some(too_large)), Err(Refused::Memory { asked: too_large, free: 1 << 30 }));
        let least = least_mib() << 20;
        assert!(is_enough(least) && roomy.size(Some(least)) == Ok(least), "{least}");
    }

    #[test]
    fn a_default_shrinks_to_what_fits_and_no_further_than_is_worth_it() {
        assert_eq!(shrunk(8 << 30, 100 << 30), 8 << 30);
        assert_eq!(shrunk(8 << 30, (2 << 30) + 5), 2 << 30);
        assert_eq!(shrunk(8 << 30, 1), SHRUNK_MIN_BYTES);
        assert_eq!(shrunk(128 << 20, 1), 128 << 20, "where no more is free");
    }
}

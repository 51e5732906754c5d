//! The baseline: the safetensors crate as its users load, one memory map a shard and one copy a tensor.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;

use super::record::Phases;
use super::{Done, InPlace};

/// Loads every tensor of a safetensors directory into memory of its own.
pub fn load(dir: &Path) -> Result<Done> {
    let started = Instant::now();
    let mut tensors = Vec::new();
    let mut phases = Phases::default();
    let mut shards: Vec<_> = std::fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    shards.sort();
    for shard in shards {
        let opened = Instant::now();
        let map = map(&shard)?;
        let parsed = SafeTensors::deserialize(&map).with_context(|| format!("parse {}", shard.display()))?;
        phases.open_s += opened.elapsed().as_secs_f64();
        let copying = Instant::now();
        tensors.extend(parsed.iter().map(|(name, view)| (name.to_string(), view.data().to_vec())));
        phases.transfer_s += copying.elapsed().as_secs_f64();
    }
    let elapsed_s = started.elapsed().as_secs_f64();
    Ok(Done {
        elapsed_s,
        phases,
        bytes: tensors.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        path: "mmap-copy".into(),
        path_reason: "the safetensors crate: one map a shard, one copy a tensor, one thread".into(),
        bytes_in_place: InPlace::Baseline(tensors),
    })
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // SAFETY: the map is read-only and private to this load. Should another process cut the file meanwhile,
    // the read ends in SIGBUS: the baseline takes that risk as all users of mapped safetensors do.
    unsafe { Mmap::map(&file) }.with_context(|| format!("map {}", path.display()))
}

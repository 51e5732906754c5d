//! Hostile index files and headers: whatever opens must satisfy what the loader relies on.
//!
//! The first byte picks the layout, the second the sizes of the data files; the rest is the text of the files,
//! cut in two at the first 0xFF (which no JSON holds). The data files are sparse and shared by all runs.

#![no_main]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::plan::{Plan, Spacing};
use tempfile::TempDir;

#[path = "../../tests/hostile/invariants.rs"]
mod invariants;

/// In memory where that can be: a disk would set the pace.
static ROOM: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
});

/// Bytes of the partitions, by the second byte; 8192 and 5000 are what the seeds use.
const SIZES: [&[u64]; 6] =
    [&[8192, 5000], &[0, 1, 12288], &[], &[1 << 62], &[1 << 62, 1], &[u64::MAX >> 1, 4096]];

fn sparse(path: &Path, bytes: u64) -> Option<()> {
    File::create(path).ok()?.set_len(bytes).ok()
}

/// A directory with partitions of these sizes, made at its first use. `None` where sparse files end earlier.
fn partitions(which: usize, sizes: &[u64]) -> Option<PathBuf> {
    let dir = ROOM.path().join(format!("sllm-{which}"));
    if !dir.exists() {
        std::fs::create_dir(&dir).ok()?;
        for (i, bytes) in sizes.iter().enumerate() {
            sparse(&dir.join(format!("tensor.data_{i}")), *bytes)?;
        }
    }
    Some(dir)
}

/// Writes a safetensors file: its length and header as they are, or with the true length before the header, and
/// then `data_bytes` of zeros.
fn safetensors(path: &Path, content: &[u8], true_length: bool, data_bytes: u64) -> Option<()> {
    let length = (content.len() as u64).to_le_bytes();
    let content = if true_length { [&length[..], content].concat() } else { content.to_vec() };
    std::fs::write(path, &content).ok()?;
    let file = File::options().write(true).open(path).ok()?;
    file.set_len((content.len() as u64).saturating_add(data_bytes)).ok()
}

fn lay_out(data: &[u8]) -> Option<PathBuf> {
    let [layout, which, rest @ ..] = data else { return None };
    let which = *which as usize % SIZES.len();
    let sizes = SIZES[which];
    let (first, second) = match rest.iter().position(|b| *b == 0xFF) {
        Some(cut) => (&rest[..cut], Some(&rest[cut + 1..])),
        None => (rest, None),
    };
    let (kind, data_bytes) = (layout % 4, u64::from(layout / 4));
    if kind == 0 {
        let dir = partitions(which, sizes)?;
        std::fs::write(dir.join("tensor_index.json"), first).ok()?;
        let manifest = dir.join("sllm_gds.json");
        match second {
            Some(second) => std::fs::write(manifest, second).ok()?,
            None if manifest.exists() => std::fs::remove_file(manifest).ok()?,
            None => {}
        }
        return Some(dir);
    }
    if kind < 3 {
        let path = ROOM.path().join("one.safetensors");
        // As they are: the header's length may be hostile too, and may hold 0xFF.
        safetensors(&path, rest, kind == 1, data_bytes)?;
        return Some(path);
    }
    let dir = ROOM.path().join("shards");
    std::fs::create_dir_all(&dir).ok()?;
    safetensors(&dir.join("b.safetensors"), first, true, data_bytes)?;
    let good = br#"{"z":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    safetensors(&dir.join("a.safetensors"), good, true, 3)?;
    let index = dir.join("model.safetensors.index.json");
    match second {
        Some(second) => std::fs::write(index, second).ok()?,
        None if index.exists() => std::fs::remove_file(index).ok()?,
        None => {}
    }
    Some(dir)
}

fuzz_target!(|data: &[u8]| {
    let Some(path) = lay_out(data) else { return };
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    invariants::check_checkpoint(&checkpoint);
    for destinations in 1..=4 {
        for spacing in [Spacing::AsInFile, Spacing::Aligned] {
            if let Ok(plan) = Plan::new(&checkpoint, destinations, spacing) {
                invariants::check_plan(&checkpoint, &plan, spacing);
            }
        }
    }
});

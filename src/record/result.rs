//! The result file: what `bench` writes and `analyze` reads. They share nothing else.
//!
//! One file per model, format, count and mode: `results/{model}_{format}_{count}_{mode}.json`, an array
//! of records. `model_name` and `loading_time` are ServerlessLLM's own keys; all others are ours, and a
//! reader must do without them. The environment of a run stands once, in `environment.json` beside.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::load::LinkReport;
pub use crate::load::phases::Phases;
use crate::os::sys;

/// Above this share of resident bytes before a load that was meant to be cold, the record says `warm`.
pub const COLD_RESIDENT_MAX: f64 = 0.01;

/// One measured load. Seconds are wall-clock, bytes are bytes, fractions lie in 0..=1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// `{model}_{replica}`, as ServerlessLLM writes it.
    pub model_name: String,
    /// From the call to the last byte in place; absent when the load failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loading_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `sllm`, `sllm-packed`, `safetensors`, `safetensors-direct`, or a peer's name.
    pub format: String,
    /// `cached` or `random`.
    pub mode: String,
    /// What was asked for: `auto`, `host`, `baseline-rust`, `baseline-python`, …
    pub engine: String,
    /// What was got: `host-direct`, `host-buffered`, `host-mixed`, `mmap-copy`, …
    pub path: String,
    /// Why that path was taken, in words.
    pub path_reason: String,
    /// Bytes of tensors delivered.
    pub bytes: u64,
    /// Bytes that were read for them, as they lie on disk: of packed weights fewer. Of our own loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Destinations: `["host"]`, or GPU indices as given.
    pub gpus: Vec<String>,
    pub replica: u64,
    /// Counts from 0 over the measured loads of this format.
    pub iteration: u64,
    /// Seconds since the Unix epoch when the load was called.
    pub started_at_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Share of the checkpoint's bytes in the page cache just before the load; absent when it can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_before: Option<f64>,
    /// `warm` or `cold`, from `resident_before`; `unknown` when it can't be told.
    pub cache_state: String,
    /// Whether this load was meant to find the page cache empty.
    pub meant_cold: bool,
    /// Host memory that was made present, and given back, just before the load: its first touch is then as fast as memory is,
    /// whatever the host took back meanwhile. Absent when it was left out, or memory had no room for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_memory_bytes: Option<u64>,
    /// True when every tensor's digest was right; absent when it was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// Seconds the verification took, not part of `loading_time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_s: Option<f64>,
    pub chunk_bytes: u64,
    pub threads: u64,
    /// What each link to a GPU carried; of our own loads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkReport>,
    /// Names the run; the same in `environment.json`.
    pub run_id: String,
}

/// Where the records of one model, format, count and mode stand.
pub fn result_path(results: &Path, model: &str, format: &str, count: u64, mode: &str) -> PathBuf {
    results.join(format!("{}_{format}_{count}_{mode}.json", model.replace('/', "_")))
}

/// The right to write to a results directory, while it lives.
pub struct Claim {
    _lock: fs::File,
    /// What the user should know of it.
    pub note: Option<String>,
}

/// Makes the results directory and keeps other runs out of it while the claim lives: they would lose each other's
/// records. Fails before any work where results could not be written.
pub fn claim(results: &Path) -> Result<Claim> {
    let remedy = || format!("write results to {}; choose another directory for them", results.display());
    fs::create_dir_all(results).with_context(remedy)?;
    tempfile::Builder::new().prefix(".sllm-gds-").tempfile_in(results).with_context(remedy)?;
    let lock = fs::File::open(results).with_context(remedy)?;
    let here = results.display();
    match lock.try_lock() {
        Ok(()) => Ok(Claim { _lock: lock, note: None }),
        Err(fs::TryLockError::WouldBlock) => {
            anyhow::bail!(
                "another bench writes to {here}: wait for it, or choose another directory for results"
            )
        }
        Err(fs::TryLockError::Error(e)) if sys::has_no_locks(&e) => {
            let note = format!(
                "the file system of {here} has no locks ({e}): let no other bench or qualify write there meanwhile"
            );
            Ok(Claim { _lock: lock, note: Some(note) })
        }
        Err(fs::TryLockError::Error(e)) => {
            Err(e).with_context(|| format!("lock {here}; choose another directory for results"))
        }
    }
}

/// Replaces `path` with these records in one step, so that a reader never sees half an array.
pub fn write_records(path: &Path, records: &[Record]) -> Result<()> {
    write_json(path, &records)
}

/// Writes any JSON file whole: to a temporary file beside it, synced, then renamed.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).with_context(|| format!("create the results directory {}", dir.display()))?;
    let mut file = tempfile::Builder::new()
        .prefix(".sllm-gds-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| format!("create a temporary file in {}", dir.display()))?;
    serde_json::to_writer_pretty(&mut file, value).with_context(|| format!("write {}", path.display()))?;
    file.write_all(b"\n")
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("rename into {}", path.display()))?;
    Ok(())
}

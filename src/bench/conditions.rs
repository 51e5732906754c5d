//! What a load finds: the page cache empty or full, and memory present, as the load's record says.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::bench::cache::Files;
use crate::bench::hold;
use crate::node;
use crate::os::cancel::Cancel;
use crate::os::memory::present;
use crate::record::result::{COLD_RESIDENT_MAX, Record};

/// What a measured load is to find.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// Its files out of the page cache, else in it.
    pub cold: bool,
    /// The memory that it will need, present.
    pub ready_memory: bool,
    /// It goes into host memory.
    pub into_host: bool,
    /// Once set, making ready ends early.
    pub cancel: Cancel,
}

/// Evicts a checkpoint's files, or reads them into the page cache; says which share of them lies there now.
pub fn make_ready(dir: &Path, cold: bool, cancel: &Cancel) -> Result<Option<f64>> {
    let files = Files::open(dir)?;
    fill_or_empty(&files, cold, cancel)?;
    Ok(files.resident_share())
}

fn fill_or_empty(files: &Files, cold: bool, cancel: &Cancel) -> Result<()> {
    if cold { files.evict() } else { files.warm(cancel) }
}

/// Makes a checkpoint ready for a load that starts now, and says in its record what the load finds. The record is worth
/// keeping where that failed, too.
pub fn begin(record: Record, checkpoint: &Path, conditions: &Conditions) -> (Record, Result<()>) {
    let ready = find(checkpoint, conditions);
    let (resident_before, ready_memory_bytes) = *ready.as_ref().unwrap_or(&(None, None));
    let cache_state = match resident_before {
        Some(share) if share > COLD_RESIDENT_MAX => "warm",
        Some(_) => "cold",
        None => "unknown",
    };
    let record = Record {
        started_at_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
        resident_before,
        cache_state: cache_state.into(),
        meant_cold: conditions.cold,
        ready_memory_bytes,
        ..record
    };
    (record, ready.map(drop))
}

/// Brings these conditions about: the share of the files in the page cache, and the bytes of memory that were made present.
fn find(checkpoint: &Path, conditions: &Conditions) -> Result<(Option<f64>, Option<u64>)> {
    let files = Files::open(checkpoint)?;
    fill_or_empty(&files, conditions.cold, &conditions.cancel)?;
    if !conditions.ready_memory {
        return Ok((files.resident_share(), None));
    }
    let resident_bytes = files.resident_bytes();
    let ready_memory_bytes = make_memory_ready(&files, resident_bytes, conditions);
    // Memory may have been shorter than was said.
    if files.resident_bytes() < resident_bytes {
        fill_or_empty(&files, conditions.cold, &conditions.cancel)?;
    }
    Ok((files.resident_share(), ready_memory_bytes))
}

/// Makes as much memory present as the files are long: what a load into host memory takes, and more than one to a GPU does,
/// which differ in what they hold on the way. Leaves it where memory does not hold both that and what the page cache has of
/// the files; where that can't be told, it counts as all of them.
fn make_memory_ready(files: &Files, resident_bytes: Option<u64>, conditions: &Conditions) -> Option<u64> {
    let (bytes, cancel) = (files.bytes(), &conditions.cancel);
    node::memory::check(bytes.saturating_add(resident_bytes.unwrap_or(bytes))).ok()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let hold = hold::time(conditions.into_host, bytes);
    let mut memory = present(bytes, threads, cancel).ok()?;
    if !hold.is_zero() {
        // Given back, its blocks grow together with free ones that the host has taken: the load would get those, too.
        drop(memory);
        memory = present(bytes, threads, cancel).ok()?;
        hold::wait(hold, cancel);
    }
    drop(memory);
    (!cancel.is_set()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(cold: bool, ready_memory: bool) -> Conditions {
        Conditions { cold, ready_memory, into_host: true, cancel: Cancel::new() }
    }

    #[test]
    fn a_checkpoint_that_is_gone_has_a_record_and_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { format: "sllm".into(), ..Record::default() };
        let (record, ready) = begin(record, &dir.path().join("gone"), &conditions(true, true));
        assert!(ready.is_err());
        assert_eq!((record.format.as_str(), record.cache_state.as_str()), ("sllm", "unknown"));
        assert!(record.meant_cold && record.resident_before.is_none() && record.started_at_s > 0.0);
        assert_eq!(record.ready_memory_bytes, None);
    }

    #[test]
    fn memory_is_made_present_where_it_is_asked_for_and_there_is_room() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &[7]].concat();
        std::fs::write(dir.path().join("model.safetensors"), &file).unwrap();
        let bytes = |ready_memory| {
            let (record, ready) = begin(Record::default(), dir.path(), &conditions(false, ready_memory));
            ready.unwrap();
            record.ready_memory_bytes
        };
        assert_eq!((bytes(true), bytes(false)), (Some(file.len() as u64), None));
        let files = Files::open(dir.path()).unwrap();
        let more_than_there_is = Some(1 << 50);
        assert_eq!(make_memory_ready(&files, more_than_there_is, &conditions(false, true)), None);
        let cancelled = conditions(false, true);
        cancelled.cancel.set();
        assert_eq!(make_memory_ready(&files, Some(0), &cancelled), None, "it ended early");
    }
}

//! What a load finds: the page cache empty or full, as the load's record says.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::bench::cache::Files;
use crate::record::result::{COLD_RESIDENT_MAX, Record};

/// Evicts a checkpoint's files, or reads them into the page cache; says which share of them lies there now.
pub fn make_ready(dir: &Path, cold: bool) -> Result<Option<f64>> {
    let files = Files::open(dir)?;
    if cold {
        files.evict()?
    } else {
        files.warm()?
    }
    Ok(files.resident_share())
}

/// Makes a checkpoint ready for a load that starts now, and says in its record what the load finds. The record is worth
/// keeping where that failed, too.
pub fn begin(record: Record, checkpoint: &Path, meant_cold: bool) -> (Record, Result<()>) {
    let ready = make_ready(checkpoint, meant_cold);
    let resident_before = *ready.as_ref().unwrap_or(&None);
    let cache_state = match resident_before {
        Some(share) if share > COLD_RESIDENT_MAX => "warm",
        Some(_) => "cold",
        None => "unknown",
    };
    let record = Record {
        started_at_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
        resident_before,
        cache_state: cache_state.into(),
        meant_cold,
        ..record
    };
    (record, ready.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_is_gone_has_a_record_and_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { format: "sllm".into(), ..Record::default() };
        let (record, ready) = begin(record, &dir.path().join("gone"), true);
        assert!(ready.is_err());
        assert_eq!((record.format.as_str(), record.cache_state.as_str()), ("sllm", "unknown"));
        assert!(record.meant_cold && record.resident_before.is_none() && record.started_at_s > 0.0);
    }
}

//! One measured load, as bench and qualify make it: made ready, timed, verified, and a record whatever comes of it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::conditions::{Conditions, begin};
use crate::bench::done::{Done, InPlace};
use crate::os::text;
use crate::record::result::Record;

/// What is loaded.
pub trait Load {
    /// Loads once.
    fn load(&mut self) -> Result<Done>;

    /// The tensors that are wrong, in words; `None` where nobody asked.
    fn mismatches(&mut self, bytes_in_place: InPlace) -> Result<Option<Vec<String>>>;
}

/// Makes one load of a checkpoint. The record tells of wrong bytes; the error is that of a load that could not be made, or
/// not be verified.
pub fn one(
    record: Record,
    checkpoint: &Path,
    conditions: &Conditions,
    load: &mut impl Load,
) -> (Record, Result<()>) {
    let (mut record, ready) = begin(record, checkpoint, conditions);
    let done = ready.and_then(|()| load.load()).and_then(|done| fill_in(&mut record, done, load));
    if let Err(error) = &done {
        record.error = Some(format!("{error:#}"));
    }
    (record, done)
}

/// Takes a load's figures into its record; the clock has stopped, so here is the time to verify. Bytes that could not be
/// compared are not wrong for that.
fn fill_in(record: &mut Record, done: Done, load: &mut impl Load) -> Result<()> {
    record.loading_time = Some(done.elapsed_s);
    record.phases = Some(done.phases);
    (record.bytes, record.read_bytes) = (done.bytes, done.read_bytes);
    record.path = done.path;
    record.path_reason = done.path_reason;
    (record.chunk_bytes, record.threads) = (done.chunk_bytes, done.threads as u64);
    record.links = done.links;
    let started = Instant::now();
    let checked = load.mismatches(done.bytes_in_place);
    if !matches!(checked, Ok(None)) {
        record.verify_s = Some(started.elapsed().as_secs_f64());
    }
    let Some(wrong) = checked.context("could not be verified")? else { return Ok(()) };
    record.verified = Some(wrong.is_empty());
    if !wrong.is_empty() {
        record.error = Some(format!("the bytes are wrong: {}", text::in_short(&wrong)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::load::Phases;
    use crate::os::cancel::Cancel;

    /// A load whose verification says this.
    struct Fake(Option<Result<Option<Vec<String>>>>);

    impl Load for Fake {
        fn load(&mut self) -> Result<Done> {
            if self.0.is_none() {
                bail!("no such load");
            }
            Ok(Done {
                elapsed_s: 2.0,
                phases: Phases::default(),
                bytes: 7,
                read_bytes: None,
                path: "p".into(),
                path_reason: String::new(),
                chunk_bytes: 0,
                threads: 0,
                links: Vec::new(),
                bytes_in_place: InPlace::Python,
            })
        }

        fn mismatches(&mut self, _: InPlace) -> Result<Option<Vec<String>>> {
            self.0.take().unwrap_or(Ok(None))
        }
    }

    #[test]
    fn wrong_bytes_unverified_ones_and_failed_loads_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &[1]].concat();
        std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
        let one = |says| {
            let conditions =
                Conditions { cold: false, ready_memory: false, into_host: true, cancel: Cancel::new() };
            let (record, done) = one(Record::default(), dir.path(), &conditions, &mut Fake(says));
            (record.verified, record.error, record.loading_time, done.is_ok())
        };
        assert_eq!(one(Some(Ok(Some(vec![])))), (Some(true), None, Some(2.0), true));
        let wrong = one(Some(Ok(Some(vec!["w".into()]))));
        assert_eq!(wrong, (Some(false), Some("the bytes are wrong: w".into()), Some(2.0), true));
        let unverified = one(Some(Err(anyhow::anyhow!("gone"))));
        assert_eq!(unverified, (None, Some("could not be verified: gone".into()), Some(2.0), false));
        assert_eq!(one(Some(Ok(None))), (None, None, Some(2.0), true));
        assert_eq!(one(None), (None, Some("no such load".into()), None, false));
    }
}

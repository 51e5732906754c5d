//! Loads by the loader itself: of the random file to each GPU, and of a real checkpoint cold and warm, verified.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::cache::Files;
use crate::bench::conditions::{Conditions, make_ready};
use crate::bench::done::{Done, InPlace};
use crate::bench::hold;
use crate::bench::one::{Load, one};
use crate::checkpoint::Checkpoint;
use crate::load;
use crate::load::verify;
use crate::load::verify::Digests;
use crate::load::{Destination, Options};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::progress::Progress;
use crate::qualify::measure::{ROUNDS_MIN, Rounds, not_cold, repeat};
use crate::qualify::workload::Workload;
use crate::record::result::Record;
use crate::write::save::{Layout, save};

const PARTITION_BYTES_MAX: u64 = 10 << 30;
/// More loads than this tell nothing new.
pub const LOADS_MAX: usize = 50;

/// Loads the random file, cold, and says what the transfer alone came to, and its path.
pub fn storage_to_gpus(
    checkpoint: &Path,
    to: &Destination,
    options: &Options,
    share: Duration,
    cancel: &Cancel,
) -> Result<(Rounds, String)> {
    let (mut path, mut resident) = (String::new(), Vec::new());
    let mut rounds = repeat(ROUNDS_MIN, share, cancel, || {
        resident.push(make_ready(checkpoint, true, cancel)?);
        let (_, report) = load::load(checkpoint, to, options, cancel)?;
        path = format!("{} ({})", report.path, report.path_reason);
        Ok((report.read_bytes, report.phases.transfer_s))
    })?;
    rounds.not_cold = not_cold(&resident);
    Ok((rounds, path))
}

/// A made-up checkpoint on disk, ready to be loaded again and again.
pub struct Loads<'a> {
    pub model: String,
    dir: PathBuf,
    expected: Digests,
    to: &'a Destination,
    options: Options,
    engine: &'static str,
    run_id: String,
    /// Before each load, off the clock.
    hold: Duration,
}

impl<'a> Loads<'a> {
    /// Saves a checkpoint of this workload in `scratch`.
    pub fn prepare(
        scratch: &Path,
        workload: &Workload,
        to: &'a Destination,
        options: &Options,
        engine: &'static str,
        run_id: &str,
        cancel: &Cancel,
    ) -> Result<Loads<'a>> {
        let input = workload.input(cancel)?;
        let dir = scratch.join("checkpoint");
        save(
            &input,
            &Layout::new(&input, 1, PARTITION_BYTES_MAX)?,
            &dir,
            false,
            cancel,
            &Progress::silent(),
        )?;
        let manifest = Checkpoint::read(&dir)?.manifest.context("the checkpoint has no manifest")?;
        let mut options = options.clone();
        options.poison = true;
        let model = input.default_name.clone();
        let hold = hold::time(matches!(to, Destination::Host), Files::open(&dir)?.bytes());
        Ok(Loads {
            model,
            dir,
            expected: manifest.tensors.clone(),
            to,
            options,
            engine,
            run_id: run_id.to_string(),
            hold,
        })
    }

    /// Loads at least three times, then again while there is time. A load that fails or delivers wrong bytes is a record,
    /// too, and the last one. An interruption ends it early, with the records so far. The error is that of a load that
    /// could not be made or not be verified; of wrong bytes only the record tells.
    pub fn run(&self, cold: bool, share: Duration, cancel: &Cancel) -> (Vec<Record>, Option<anyhow::Error>) {
        // The first read into the page cache takes as long as many warm loads. What fails here fails below, too.
        if !cold {
            let _ = make_ready(&self.dir, cold, cancel);
        }
        let started = Instant::now();
        let mut records: Vec<Record> = Vec::new();
        let mut last = Duration::ZERO;
        let measuring = |count: usize| started.elapsed().saturating_sub(self.hold * count as u32);
        let more = |count, last| count < LOADS_MAX && measuring(count).saturating_add(last) < share;
        while records.len() < ROUNDS_MIN || more(records.len(), last) {
            let began = Instant::now();
            let Some((record, loaded)) = self.one(cold, records.len() as u64, cancel) else { break };
            let failed = record.error.is_some();
            records.push(record);
            last = began.elapsed().saturating_sub(self.hold);
            if failed {
                return (records, loaded.err());
            }
        }
        (records, None)
    }

    /// One load as a record, and whether it could be made; `None` when it was interrupted.
    fn one(&self, cold: bool, iteration: u64, cancel: &Cancel) -> Option<(Record, Result<()>)> {
        if cancel.is_set() {
            return None;
        }
        let record = Record {
            model_name: format!("{}_0", self.model),
            format: "sllm".into(),
            mode: "cached".into(),
            engine: self.engine.into(),
            gpus: self.to.labels(),
            iteration,
            run_id: self.run_id.clone(),
            ..Record::default()
        };
        let into_host = matches!(self.to, Destination::Host);
        let conditions = Conditions { cold, ready_memory: true, into_host, cancel: cancel.clone() };
        let (record, loaded) = one(record, &self.dir, &conditions, &mut OneOf { loads: self, cancel });
        let interrupted = loaded.as_ref().is_err_and(|error| error.root_cause().is::<Interrupted>());
        (!interrupted).then_some((record, loaded))
    }
}

/// One load of a checkpoint.
struct OneOf<'l, 'a> {
    loads: &'l Loads<'a>,
    cancel: &'l Cancel,
}

impl Load for OneOf<'_, '_> {
    fn load(&mut self) -> Result<Done> {
        let Loads { dir, to, options, .. } = self.loads;
        load::load(dir, to, options, self.cancel).map(Done::ours)
    }

    fn mismatches(&mut self, bytes_in_place: InPlace) -> Result<Option<Vec<String>>> {
        let InPlace::Ours(loaded) = bytes_in_place else { bail!("another's bytes; please report this") };
        Ok(Some(verify::check(&loaded, &self.loads.expected, self.cancel)?.wrong))
    }
}

/// The rates of loads that went well, and the path that the last took.
pub fn rounds(records: &[Record]) -> (Rounds, String) {
    let mut rounds = Rounds::default();
    let mut path = String::new();
    let right = || records.iter().filter(|record| record.error.is_none());
    for record in right() {
        rounds.add(record.bytes, record.loading_time.unwrap_or(0.0));
        path = format!("{} ({})", record.path, record.path_reason);
    }
    let cold = right().filter(|record| record.meant_cold);
    rounds.not_cold = not_cold(&cold.map(|record| record.resident_before).collect::<Vec<_>>());
    (rounds, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Settings;

    #[test]
    fn a_lost_file_is_an_error_and_no_wrong_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { chunk_bytes: Some(1 << 20), threads: Some(1), ..Settings::default() };
        let options = Options::new(&settings, &Destination::Host, Err(None)).unwrap();
        let loads = Loads {
            model: "m".into(),
            dir: dir.path().join("lost"),
            expected: Digests::new(),
            to: &Destination::Host,
            options,
            engine: "auto",
            run_id: "1-2".into(),
            hold: Duration::ZERO,
        };
        for cold in [true, false] {
            let (records, error) = loads.run(cold, Duration::ZERO, &Cancel::new());
            assert_eq!((records.len(), records[0].verified), (1, None));
            assert_eq!(records[0].error, error.map(|error| format!("{error:#}")));
            assert!(records[0].error.is_some());
        }
    }

    #[test]
    fn failed_loads_have_no_rate() {
        let record = |bytes, loading_time, error: Option<&str>| Record {
            bytes,
            loading_time: Some(loading_time),
            error: error.map(str::to_string),
            path: "host-direct".into(),
            ..Record::default()
        };
        let (rounds, path) = rounds(&[record(2_000_000_000, 1.0, None), record(1, 1.0, Some("wrong"))]);
        assert_eq!(rounds.gb_per_s, [2.0]);
        assert!(path.starts_with("host-direct"));
    }

    #[test]
    fn loads_that_were_to_be_cold_and_were_not_say_so() {
        let record = |meant_cold, share| Record {
            meant_cold,
            resident_before: Some(share),
            loading_time: Some(1.0),
            ..Record::default()
        };
        let of = |records: &[Record]| rounds(records).0.not_cold;
        assert_eq!(
            of(&[record(true, 0.0), record(true, 1.0)]).unwrap(),
            "could not be evicted: 100 % resident"
        );
        assert_eq!(of(&[record(false, 1.0)]), None);
        let failed = Record { error: Some("x".into()), ..record(true, 1.0) };
        assert_eq!(of(&[record(true, 0.0), failed]), None);
    }
}

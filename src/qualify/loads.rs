//! Loads by the loader itself: of the random file to each GPU, and of a real checkpoint cold and warm, verified.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::measure::{ROUNDS_MIN, Rounds, repeat};
use crate::bench::make_ready;
use crate::bench::record::{COLD_RESIDENT_MAX, Record, result_path, write_records};
use crate::checkpoint::save::{Layout, save};
use crate::checkpoint::{Checkpoint, input, synthetic};
use crate::interrupt::{Cancel, Interrupted};
use crate::load::verify::{self, Digests};
use crate::load::{self, Destination, Options};

/// Models to make up, small to large; of each, shares of its layers. The one nearest below the size is taken.
const MODELS: [&str; 4] =
    ["facebook/opt-125m", "facebook/opt-6.7b", "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-70B"];
const PARTITION_BYTES_MAX: u64 = 10 << 30;
/// More loads than this tell nothing new.
const LOADS_MAX: usize = 50;

/// The largest made-up model of up to `bytes`, as [`synthetic::model`] takes it.
pub fn model_of(bytes: u64) -> Result<String> {
    let sizes = sizes()?;
    match sizes.iter().filter(|(size, _)| *size <= bytes).max_by_key(|(size, _)| *size) {
        Some((_, id)) => Ok(id.clone()),
        None => bail!("no checkpoint to measure with is as small as {bytes} bytes"),
    }
}

/// What the smallest takes, in MiB.
pub fn least_mib() -> Result<u64> {
    Ok(sizes()?.iter().map(|(size, _)| size.div_ceil(1 << 20)).min().unwrap_or(0))
}

/// Bytes and id of every model that may be taken.
fn sizes() -> Result<Vec<(u64, String)>> {
    let mut sizes = Vec::new();
    for id in MODELS {
        for percent in 1..=100 {
            let model = synthetic::model(&format!("{id}@{}", f64::from(percent) / 100.0))?;
            sizes.push((model.tensors.iter().filter_map(|tensor| tensor.bytes()).sum(), model.id));
        }
    }
    Ok(sizes)
}

/// Loads the random file once, cold, and says what the transfer alone came to, and its path.
pub fn storage_to_gpus(
    checkpoint: &Path,
    to: &Destination,
    options: &Options,
    share: Duration,
    cancel: &Cancel,
) -> Result<(Rounds, String)> {
    let mut path = String::new();
    let rounds = repeat(ROUNDS_MIN, share, cancel, || {
        make_ready(checkpoint, true)?;
        let (_, report) = load::load(checkpoint, to, options, cancel)?;
        path = format!("{} ({})", report.path, report.path_reason);
        Ok((report.read_bytes, report.phases.transfer_s))
    })?;
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
    run_id: &'a str,
}

impl<'a> Loads<'a> {
    /// Saves the model `id` in `room`.
    pub fn prepare(
        room: &Path,
        id: &str,
        to: &'a Destination,
        options: &Options,
        engine: &'static str,
        run_id: &'a str,
        cancel: &Cancel,
    ) -> Result<Loads<'a>> {
        let input = input::open(&format!("{}{id}", synthetic::PREFIX), 0, None, cancel)?;
        let dir = room.join("checkpoint");
        save(&input, &Layout::new(&input, 1, PARTITION_BYTES_MAX)?, &dir, false, cancel)?;
        let manifest = Checkpoint::open(&dir)?.manifest.context("the checkpoint has no manifest")?;
        let mut options = options.clone();
        options.poison = true;
        let model = input.default_name.clone();
        Ok(Loads { model, dir, expected: manifest.tensors, to, options, engine, run_id })
    }

    /// Loads at least three times, then again while there is time. What fails or is wrong is a record, too; a second load of
    /// the same kind is not tried then. Ends early, with what there is, when interrupted.
    pub fn run(&self, cold: bool, share: Duration, cancel: &Cancel) -> Vec<Record> {
        // The first read into the page cache takes as long as many warm loads. What fails here fails below, too.
        if !cold {
            let _ = make_ready(&self.dir, cold);
        }
        let started = Instant::now();
        let mut records: Vec<Record> = Vec::new();
        let mut last = Duration::ZERO;
        let more = |count: usize, last| count < LOADS_MAX && started.elapsed().saturating_add(last) < share;
        while records.len() < ROUNDS_MIN || more(records.len(), last) {
            let began = Instant::now();
            let Some(record) = self.one(cold, records.len() as u64, cancel) else { break };
            let failed = record.error.is_some();
            records.push(record);
            last = began.elapsed();
            if failed {
                break;
            }
        }
        records
    }

    /// One load as a record; `None` when it was interrupted.
    fn one(&self, cold: bool, iteration: u64, cancel: &Cancel) -> Option<Record> {
        if cancel.is_set() {
            return None;
        }
        let ready = make_ready(&self.dir, cold);
        let resident = ready.as_ref().ok().copied().flatten();
        let cache_state = match resident {
            Some(share) if share > COLD_RESIDENT_MAX => "warm",
            Some(_) => "cold",
            None => "unknown",
        };
        let mut record = Record {
            model_name: format!("{}_0", self.model),
            format: "sllm".into(),
            mode: "cached".into(),
            engine: self.engine.into(),
            gpus: self.to.labels(),
            iteration,
            started_at_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
            resident_before: resident,
            cache_state: cache_state.into(),
            meant_cold: cold,
            run_id: self.run_id.into(),
            ..Record::default()
        };
        let loaded = ready.and_then(|_| load::load(&self.dir, self.to, &self.options, cancel));
        match loaded {
            Err(error) if error.root_cause().is::<Interrupted>() => return None,
            Err(error) => record.error = Some(format!("{error:#}")),
            Ok((loaded, report)) => self.fill_in(&mut record, &loaded, report),
        }
        Some(record)
    }

    /// The clock has stopped: here is the time to verify.
    fn fill_in(&self, record: &mut Record, loaded: &load::Loaded, report: load::LoadReport) {
        record.loading_time = Some(report.elapsed_s);
        record.phases = Some(report.phases);
        record.bytes = report.bytes;
        record.path = report.path;
        record.path_reason = report.path_reason;
        (record.chunk_bytes, record.threads) = (report.chunk_bytes, report.threads as u64);
        let started = Instant::now();
        let checked = verify::check(loaded, &self.expected);
        record.verify_s = Some(started.elapsed().as_secs_f64());
        record.verified = Some(checked.as_ref().is_ok_and(|checked| checked.wrong.is_empty()));
        record.error = match checked {
            Ok(checked) if checked.wrong.is_empty() => None,
            Ok(checked) => Some(format!("the bytes are wrong: {}", checked.wrong.join("; "))),
            Err(error) => Some(format!("could not be verified: {error:#}")),
        };
    }

    /// Writes the records where `analyze` finds them, and says where.
    pub fn write(&self, results: &Path, records: &[Record], cold: bool) -> Result<PathBuf> {
        // Not the number of loads, which differs: another run here replaces the file.
        let state = if cold { "qualify-cold" } else { "qualify-warm" };
        let path = result_path(results, &self.model, "sllm", 1, state);
        write_records(&path, records)?;
        Ok(path)
    }
}

/// The rates of loads that went well, and the path that the last took.
pub fn rounds(records: &[Record]) -> (Rounds, String) {
    let mut rounds = Rounds::default();
    let mut path = String::new();
    for record in records.iter().filter(|record| record.error.is_none()) {
        rounds.add(record.bytes, record.loading_time.unwrap_or(0.0));
        path = format!("{} ({})", record.path, record.path_reason);
    }
    (rounds, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_fits_below_the_size() {
        for (bytes, starts) in [
            (110 << 20, "facebook/opt-125m@"),
            (1 << 30, "facebook/opt-6.7b@"),
            (2_400_000_000, "facebook/opt-6.7b@"),
            (8 << 30, ""),
            (64 << 30, "meta-llama/Meta-Llama-3-70B@"),
        ] {
            let id = model_of(bytes).unwrap();
            assert!(id.starts_with(starts), "{id}");
            let tensors = synthetic::model(&id).unwrap().tensors;
            let size: u64 = tensors.iter().map(|tensor| tensor.bytes().unwrap()).sum();
            assert!(size <= bytes, "{id}: {size}");
            assert!(bytes < 1 << 30 || size * 4 > bytes * 3, "{id}: only {size} of {bytes}");
        }
        assert!(model_of(1 << 20).is_err());
        assert!(model_of(least_mib().unwrap() << 20).is_ok());
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
}

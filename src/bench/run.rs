//! Loads measured in turns against SafeTensors. Every record is on disk before the next load starts.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use thiserror::Error;

use crate::bench::baseline;
use crate::bench::conditions::{Conditions, make_ready};
use crate::bench::done::{Done, InPlace};
use crate::bench::format::{Baseline, Format, Mode};
use crate::bench::one::{Load, one};
pub use crate::bench::prepare::NotReused;
use crate::bench::prepare::{Prepared, prepare};
use crate::bench::python;
use crate::bench::python::Python;
pub use crate::bench::python::{NoPython, WantsGpu};
use crate::checkpoint::DType;
use crate::gpu::pinned::{Pinned, pin_for};
use crate::load;
use crate::load::pool::Pool;
use crate::load::{Clock, Destination, Options, verify};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::progress::{Progress, Unit};
use crate::record::environment;
use crate::record::result::{Record, result_path, write_records};
use crate::write::input::Input;

/// What to measure, and how.
pub struct Settings {
    pub mode: Mode,
    /// Measured loads of each format (cached), or replicas on disk (random).
    pub count: u32,
    /// What to compare, in turns.
    pub formats: Vec<Format>,
    pub baseline: Baseline,
    /// Evict before every load, in cached mode too.
    pub cold: bool,
    /// Make the memory that a load will need present before each measured one.
    pub ready_memory: bool,
    /// Of the random order.
    pub seed: u64,
    /// Check the bytes after each load.
    pub verify: bool,
    /// What our own loader was asked for, as records name it.
    pub engine: &'static str,
    /// Where checkpoints lie, and are made where they are missing.
    pub storage_path: PathBuf,
    pub results: PathBuf,
    /// Keep loaded checkpoints in pinned memory, and copy from there (GPU loads).
    pub pool: Option<PoolSettings>,
}

/// The size of a pool, and how it is made.
pub struct PoolSettings {
    pub bytes: u64,
    pub chunk_bytes: u64,
    /// Make all of it before the first load, not as it is needed.
    pub prefault: bool,
}

/// A format can't be compared with itself.
#[derive(Debug, Error)]
#[error("the format {0} is named twice")]
pub struct NamedTwice(&'static str);

/// What came of a run.
pub struct Measured {
    /// The model's name in records.
    pub model: String,
    /// Result files with what is in them, one for each format.
    pub files: Vec<(PathBuf, Vec<Record>)>,
}

impl Measured {
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.files.iter().flat_map(|(_, records)| records)
    }
}

/// A benchmark whose Python processes are up.
pub struct Bench {
    settings: Settings,
    to: Destination,
    options: Options,
    pythons: Vec<Python>,
}

impl Bench {
    /// Starts the Python processes of the formats that need one.
    pub fn start(settings: Settings, to: Destination, options: Options, cancel: &Cancel) -> Result<Bench> {
        let formats = &settings.formats;
        if let Some(i) = (1..formats.len()).find(|i| formats[..*i].contains(&formats[*i])) {
            bail!(NamedTwice(formats[i].name()));
        }
        let in_python = |format: &Format| match format {
            Format::Safetensors => settings.baseline == Baseline::Python,
            _ => !format.is_ours(),
        };
        let in_python: Vec<Format> = formats.iter().copied().filter(in_python).collect();
        let pythons = python::start(&in_python, &to, cancel)?;
        Ok(Bench { settings, to, options, pythons })
    }

    /// Makes the checkpoints that are missing, and measures. `notes` and the seconds that it took to get the GPUs' contexts
    /// up go into the environment that is recorded.
    pub fn measure(
        self,
        input: &Input,
        notes: &[String],
        context_s: f64,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Measured> {
        let settings = &self.settings;
        if self.pythons.iter().any(|python| python.versions["torch"].is_null())
            && let Some(tensor) = input.tensors.iter().find(|t| t.dtype == DType::BF16)
        {
            bail!(
                "tensor '{}' is bfloat16, which numpy does not know: install torch for the Python baseline",
                tensor.name
            );
        }
        let on_disk = if settings.mode == Mode::Random { settings.count } else { 1 };
        let prepared = prepare(input, &settings.storage_path, on_disk, &settings.formats, cancel, progress)?;
        let mut clock = Clock::start();
        let pool = make_pool(settings.pool.as_ref(), &self.to, &self.options)?;
        let pool_ready_s = clock.lap();
        let mut run = Run::new(self, prepared, pool)?;
        run.write_environment(notes, context_s, pool_ready_s)?;
        run.measure(cancel, progress)?;
        Ok(Measured { model: run.prepared.model, files: run.files })
    }
}

fn make_pool(
    settings: Option<&PoolSettings>,
    to: &Destination,
    options: &Options,
) -> Result<Option<Pool<Pinned>>> {
    let (Some(settings), Destination::Gpus(gpus, _)) = (settings, to) else { return Ok(None) };
    let gpus = gpus.clone();
    let make = move |count, chunk_bytes, threads| Ok(pin_for(&gpus, chunk_bytes, count, threads)?);
    let pool = Pool::new(settings.bytes, settings.chunk_bytes, Box::new(make))?;
    if settings.prefault {
        pool.prefault(options.threads)?;
    }
    Ok(Some(pool))
}

/// One run of the benchmark.
struct Run {
    settings: Settings,
    to: Destination,
    options: Options,
    prepared: Prepared,
    pythons: Vec<Python>,
    pool: Option<Pool<Pinned>>,
    run_id: String,
    /// Records so far, by format.
    files: Vec<(PathBuf, Vec<Record>)>,
}

impl Run {
    fn new(bench: Bench, prepared: Prepared, pool: Option<Pool<Pinned>>) -> Result<Run> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let run_id = format!("{}-{}", seconds.as_millis(), std::process::id());
        let Bench { settings, to, options, pythons } = bench;
        let mode = if settings.cold { "cold" } else { settings.mode.name() };
        let path = |f: &Format| {
            result_path(&settings.results, &prepared.model, f.name(), settings.count.into(), mode)
        };
        let files = settings.formats.iter().map(|f| (path(f), Vec::new())).collect();
        Ok(Run { settings, to, options, prepared, pythons, pool, run_id, files })
    }

    fn write_environment(&self, notes: &[String], context_s: f64, pool_ready_s: f64) -> Result<()> {
        let mut environment = environment::describe(&self.settings.storage_path);
        environment["notes"] = notes.into();
        environment["context_s"] = context_s.into();
        if let (Some(pool), Some(settings)) = (&self.pool, &self.settings.pool) {
            environment["pool"] = serde_json::json!({
                "bytes": pool.capacity as u64 * pool.chunk_bytes, "chunk_bytes": pool.chunk_bytes,
                "prefault": settings.prefault, "ready_s": pool_ready_s,
            });
        }
        for python in &self.pythons {
            match python.format {
                Format::Safetensors => environment["python"] = python.versions.clone(),
                peer => environment["peers"][peer.name()] = python.versions.clone(),
            }
        }
        environment::write(&self.settings.results, &self.run_id, environment)
    }

    /// Formats take turns, in a seeded random order each time, so that drift of the machine hits all of them.
    fn measure(&mut self, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let mut replicas: Vec<usize> = match self.settings.mode {
            Mode::Cached => vec![0; self.settings.count as usize],
            Mode::Random => (0..self.settings.count as usize).collect(),
        };
        let mut dice = fastrand::Rng::with_seed(self.settings.seed);
        if self.settings.mode == Mode::Random {
            dice.shuffle(&mut replicas);
        }
        for format in self.settings.formats.clone() {
            if cancel.is_set() {
                return Ok(());
            }
            // What goes wrong here goes wrong in the measured loads too, and is recorded there.
            let _ = make_ready(&self.prepared.dir(format, 0), self.meant_cold(), cancel);
            let _ = self.load(format, 0, false, cancel);
        }
        let loads = u64::from(self.settings.count) * self.settings.formats.len() as u64;
        let meter = progress.begin("loads", loads, Unit::Items);
        for (iteration, replica) in replicas.into_iter().enumerate() {
            // Whoever follows a certain other finds memory as that left it: no order may be the same every time.
            let mut turns: Vec<usize> = (0..self.settings.formats.len()).collect();
            dice.shuffle(&mut turns);
            for f in turns {
                if cancel.is_set() {
                    return Ok(());
                }
                let Some(record) = self.one(self.settings.formats[f], replica, iteration as u64, cancel)
                else {
                    return Ok(());
                };
                let (path, records) = &mut self.files[f];
                records.push(record);
                write_records(path, records)?;
                meter.advance(1);
            }
        }
        Ok(())
    }

    /// One measured load, as a record whatever comes of it; `None` when it was interrupted.
    fn one(&mut self, format: Format, replica: usize, iteration: u64, cancel: &Cancel) -> Option<Record> {
        let dir = self.prepared.dir(format, replica);
        let record = Record {
            model_name: format!("{}_{replica}", self.prepared.model),
            format: format.name().into(),
            mode: self.settings.mode.name().into(),
            engine: self.engine_asked(format).into(),
            gpus: self.to.labels(),
            replica: replica as u64,
            iteration,
            run_id: self.run_id.clone(),
            ..Record::default()
        };
        let (cold, ready_memory) = (self.meant_cold(), self.settings.ready_memory);
        let into_host = matches!(self.to, Destination::Host);
        let conditions = Conditions { cold, ready_memory, into_host, cancel: cancel.clone() };
        let (record, done) =
            one(record, &dir, &conditions, &mut OneOf { run: self, format, replica, cancel });
        let interrupted = done.is_err_and(|error| error.root_cause().is::<Interrupted>());
        (!interrupted).then_some(record)
    }

    fn meant_cold(&self) -> bool {
        self.settings.mode == Mode::Random || self.settings.cold
    }

    fn engine_asked(&self, format: Format) -> &'static str {
        match (format, self.settings.baseline) {
            (Format::Safetensors, Baseline::Rust) => "baseline-rust",
            (Format::Safetensors, Baseline::Python) => "baseline-python",
            (format, _) if !format.is_ours() => "peer",
            _ if self.pool.is_some() => "pool",
            _ => self.settings.engine,
        }
    }

    fn python(&mut self, format: Format) -> Option<&mut Python> {
        self.pythons.iter_mut().find(|python| python.format == format)
    }

    /// Loads once. What a Python process loaded stays there for `mismatches` if `keep` says so.
    fn load(&mut self, format: Format, replica: usize, keep: bool, cancel: &Cancel) -> Result<Done> {
        let (dir, cold) = (self.prepared.dir(format, replica), self.meant_cold());
        let shards = self.prepared.shards(replica);
        if let Some(python) = self.python(format) {
            return python.load(&shards, cold, keep, cancel);
        }
        if !format.is_ours() {
            return baseline::load(&shards, &self.to, cancel);
        }
        let loaded = match (&self.pool, &self.to) {
            (Some(pool), Destination::Gpus(gpus, placement)) => {
                load::pooled::load(pool, &dir, gpus, *placement, &self.options, cancel)?
            }
            _ => load::load(&dir, &self.to, &self.options, cancel)?,
        };
        Ok(Done::ours(loaded))
    }

    fn mismatches(
        &mut self,
        format: Format,
        bytes_in_place: InPlace,
        cancel: &Cancel,
    ) -> Result<Vec<String>> {
        let expected = &self.prepared.expected;
        match bytes_in_place {
            InPlace::Ours(loaded) => Ok(verify::check(&loaded, expected, cancel)?.wrong),
            InPlace::Baseline(tensors) => baseline::mismatches(&tensors, expected, cancel),
            InPlace::Python => match self.pythons.iter_mut().find(|python| python.format == format) {
                Some(python) => python.mismatches(expected, cancel),
                None => bail!("the Python process is gone"),
            },
        }
    }
}

/// One load of a run.
struct OneOf<'r> {
    run: &'r mut Run,
    format: Format,
    replica: usize,
    cancel: &'r Cancel,
}

impl Load for OneOf<'_> {
    fn load(&mut self) -> Result<Done> {
        self.run.load(self.format, self.replica, self.run.settings.verify, self.cancel)
    }

    fn mismatches(&mut self, bytes_in_place: InPlace) -> Result<Option<Vec<String>>> {
        match self.run.settings.verify {
            true => self.run.mismatches(self.format, bytes_in_place, self.cancel).map(Some),
            false => Ok(None),
        }
    }
}

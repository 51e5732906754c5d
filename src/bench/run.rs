//! Loads measured in turns against SafeTensors. Every record is on disk before the next load starts.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::bench::conditions::{begin, make_ready};
use crate::bench::prepare::Prepared;
use crate::checkpoint::DType;
use crate::cli::{Baseline, BenchArgs, EngineChoice, Format, Mode};
use crate::gpu::memory::{Pinned, pin};
use crate::load;
use crate::load::pool::Pool;
use crate::load::{Clock, Destination, Options, verify};
use crate::origin::input;
use crate::os::cancel::Cancel;
use crate::os::text;
use crate::record::result::Record;
use crate::write::sidecars;

impl Format {
    /// As in file names and records.
    pub fn name(self) -> &'static str {
        match self {
            Format::Sllm => "sllm",
            Format::Safetensors => "safetensors",
            Format::SafetensorsDirect => "safetensors-direct",
            Format::SafetensorsPrefetch => "safetensors-prefetch",
            Format::Fastsafetensors => "fastsafetensors",
            Format::RunaiStreamer => "runai-streamer",
            Format::Instanttensor => "instanttensor",
        }
    }

    /// Whether it is our own loader.
    fn is_ours(self) -> bool {
        matches!(self, Format::Sllm | Format::SafetensorsDirect)
    }

    /// Whether it can't load into host memory.
    pub(super) fn wants_gpu(self) -> bool {
        matches!(self, Format::SafetensorsPrefetch | Format::Instanttensor)
    }
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Cached => "cached",
            Mode::Random => "random",
        }
    }
}

pub fn run(args: &BenchArgs, cancel: &Cancel) -> Result<Outcome> {
    let mut clock = Clock::start();
    let ready = crate::cli::load::prepare(args.gpus.as_ref(), &args.engine, &args.storage_path)?;
    let crate::cli::load::Ready { to, note, mut options, context_s } = ready;
    options.poison = !args.no_verify;
    let formats = args.formats.clone();
    if (1..formats.len()).any(|i| formats[..i].contains(&formats[i])) {
        bail!("--formats names a format twice");
    }
    let mut notes = Vec::new();
    notes.extend(note);
    if args.mem_pool_size.is_some() && matches!(to, Destination::Host) {
        notes.push("--mem-pool-size is for loads to GPUs; loads into host memory use no pool".into());
    }
    notes.iter().for_each(text::tell);
    let in_python = |format: &Format| match format {
        Format::Safetensors => args.baseline == Baseline::Python,
        _ => !format.is_ours(),
    };
    let in_python: Vec<Format> = formats.iter().copied().filter(in_python).collect();
    let pythons = crate::bench::python::start(&in_python, &to)?;
    let count = args.replicas.unwrap_or(match args.mode {
        Mode::Cached => 5,
        Mode::Random => 30,
    });
    let _lock = crate::record::result::claim(&args.results)?;
    crate::record::environment::read(&args.results)?;
    let input = input::open(&args.model, args.seed, args.hf_token.as_deref(), cancel)?;
    sidecars::tell(&input.notes, &input.sidecars.left_out);
    if pythons.iter().any(|python| python.versions["torch"].is_null())
        && let Some(tensor) = input.tensors.iter().find(|t| t.dtype == DType::BF16)
    {
        bail!(
            "tensor '{}' is bfloat16, which numpy does not know: install torch for --baseline python",
            tensor.name
        );
    }
    let on_disk = if args.mode == Mode::Random { count } else { 1 };
    let prepared = crate::bench::prepare::prepare(&input, &args.storage_path, on_disk, &formats, cancel)?;
    clock.lap();
    let pool = make_pool(args, &to, &options)?;
    let pool_ready_s = clock.lap();
    let mut run = Run::new(args, formats, count, to, options, prepared, pythons)?;
    run.pool = pool;
    run.pool_ready_s = pool_ready_s;
    run.write_environment(&notes, context_s)?;
    run.measure(cancel)?;
    crate::cli::summary::print(&run, args.json)?;
    if cancel.is_set() {
        text::tell("interrupted: the loads that had ended are kept");
        return Ok(Outcome::Interrupted);
    }
    let bad = |r: &Record| r.error.is_some() || r.verified == Some(false);
    Ok(if run.records().any(bad) { Outcome::No } else { Outcome::Yes })
}

/// The pool that `--mem-pool-size` asks for. Its chunks are those of ServerlessLLM's store by default: 16 MiB.
fn make_pool(args: &BenchArgs, to: &Destination, options: &Options) -> Result<Option<Pool<Pinned>>> {
    let (Some(bytes), Destination::Gpus(gpus, _)) = (args.mem_pool_size, to) else { return Ok(None) };
    let chunk_bytes = args.engine.chunk_size.map_or(16 << 20, |_| options.chunk_bytes);
    let gpu = gpus[0].clone();
    let make = move |count, chunk_bytes, threads| Ok(pin(&gpu, chunk_bytes, count, threads)?);
    let pool = Pool::new(bytes, chunk_bytes, Box::new(make))?;
    if args.prefault {
        pool.prefault(options.threads)?;
    }
    Ok(Some(pool))
}

/// One run of the benchmark.
pub struct Run<'a> {
    pub(crate) args: &'a BenchArgs,
    formats: Vec<Format>,
    pub(crate) count: u32,
    to: Destination,
    options: Options,
    pub(crate) prepared: Prepared,
    pythons: Vec<crate::bench::python::Python>,
    pool: Option<Pool<Pinned>>,
    pool_ready_s: f64,
    run_id: String,
    /// Records so far, by format.
    pub(crate) files: Vec<(PathBuf, Vec<Record>)>,
}

/// What a load of any kind leaves: the figures for its record, and what to verify.
pub(crate) struct Done {
    pub(super) elapsed_s: f64,
    pub(super) phases: crate::record::result::Phases,
    pub(super) bytes: u64,
    pub(super) path: String,
    pub(super) path_reason: String,
    pub(super) bytes_in_place: InPlace,
}

/// The bytes of a finished load.
pub(crate) enum InPlace {
    Ours(Box<load::Loaded>),
    Baseline(Vec<(String, crate::bench::baseline::Bytes)>),
    /// In the Python process, which hands out digests.
    Python,
}

impl<'a> Run<'a> {
    fn new(
        args: &'a BenchArgs,
        formats: Vec<Format>,
        count: u32,
        to: Destination,
        options: Options,
        prepared: Prepared,
        pythons: Vec<crate::bench::python::Python>,
    ) -> Result<Run<'a>> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let run_id = format!("{}-{}", seconds.as_millis(), std::process::id());
        let path = |f: &Format| {
            let mode = if args.cold { "cold" } else { args.mode.name() };
            crate::record::result::result_path(&args.results, &prepared.model, f.name(), count.into(), mode)
        };
        let files = formats.iter().map(|f| (path(f), Vec::new())).collect();
        Ok(Run {
            args,
            formats,
            count,
            to,
            options,
            prepared,
            pythons,
            pool: None,
            pool_ready_s: 0.0,
            run_id,
            files,
        })
    }

    fn write_environment(&self, notes: &[String], context_s: f64) -> Result<()> {
        let mut environment = crate::record::environment::describe(&self.args.storage_path);
        environment["notes"] = notes.into();
        environment["context_s"] = context_s.into();
        if let Some(pool) = &self.pool {
            environment["pool"] = serde_json::json!({
                "bytes": pool.capacity as u64 * pool.chunk_bytes, "chunk_bytes": pool.chunk_bytes,
                "prefault": self.args.prefault, "ready_s": self.pool_ready_s,
            });
        }
        for python in &self.pythons {
            match python.format {
                Format::Safetensors => environment["python"] = python.versions.clone(),
                peer => environment["peers"][peer.name()] = python.versions.clone(),
            }
        }
        crate::record::environment::write(&self.args.results, &self.run_id, environment)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.files.iter().flat_map(|(_, records)| records)
    }

    /// Formats take turns, in a seeded random order each time, so that drift of the machine hits all of them.
    fn measure(&mut self, cancel: &Cancel) -> Result<()> {
        let mut replicas: Vec<usize> = match self.args.mode {
            Mode::Cached => vec![0; self.count as usize],
            Mode::Random => (0..self.count as usize).collect(),
        };
        let mut dice = fastrand::Rng::with_seed(self.args.seed);
        if self.args.mode == Mode::Random {
            dice.shuffle(&mut replicas);
        }
        for format in self.formats.clone() {
            if cancel.is_set() {
                return Ok(());
            }
            // What goes wrong here goes wrong in the measured loads too, and is recorded there.
            let _ = make_ready(&self.prepared.dir(format, 0), self.meant_cold());
            let _ = self.load(format, 0, false, cancel);
        }
        let bar = crate::cli::progress::count_bar(u64::from(self.count) * self.formats.len() as u64, "loads");
        for (iteration, replica) in replicas.into_iter().enumerate() {
            // Whoever follows a certain other finds memory as that left it: no order may be the same every time.
            let mut turns: Vec<usize> = (0..self.formats.len()).collect();
            dice.shuffle(&mut turns);
            for f in turns {
                if cancel.is_set() {
                    return Ok(());
                }
                let record = self.one(self.formats[f], replica, iteration as u64)?;
                let (path, records) = &mut self.files[f];
                records.push(record);
                crate::record::result::write_records(path, records)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One measured load, as a record whatever comes of it.
    fn one(&mut self, format: Format, replica: usize, iteration: u64) -> Result<Record> {
        let dir = self.prepared.dir(format, replica);
        let record = Record {
            model_name: format!("{}_{replica}", self.prepared.model),
            format: format.name().into(),
            mode: self.args.mode.name().into(),
            engine: self.engine_asked(format).into(),
            gpus: self.to.labels(),
            replica: replica as u64,
            iteration,
            run_id: self.run_id.clone(),
            ..Record::default()
        };
        let (mut record, ready) = begin(record, &dir, self.meant_cold());
        // A load under way is finished: Ctrl-C ends the run between loads.
        match ready.and_then(|()| self.load(format, replica, !self.args.no_verify, &Cancel::new())) {
            Err(error) => record.error = Some(format!("{error:#}")),
            Ok(done) => self.fill_in(&mut record, format, done),
        }
        Ok(record)
    }

    fn meant_cold(&self) -> bool {
        self.args.mode == Mode::Random || self.args.cold
    }

    fn engine_asked(&self, format: Format) -> &'static str {
        match (format, self.args.baseline, self.args.engine.engine) {
            (Format::Safetensors, Baseline::Rust, _) => "baseline-rust",
            (Format::Safetensors, Baseline::Python, _) => "baseline-python",
            (format, _, _) if !format.is_ours() => "peer",
            _ if self.pool.is_some() => "pool",
            (_, _, EngineChoice::Auto) => "auto",
            (_, _, EngineChoice::Gds) => "gds",
            (_, _, EngineChoice::Pinned) => "pinned",
            (_, _, EngineChoice::Host) => "host",
        }
    }

    fn python(&mut self, format: Format) -> Option<&mut crate::bench::python::Python> {
        self.pythons.iter_mut().find(|python| python.format == format)
    }

    /// Loads once. What a Python process loaded stays there for `mismatches` if `keep` says so.
    fn load(&mut self, format: Format, replica: usize, keep: bool, cancel: &Cancel) -> Result<Done> {
        let (dir, cold) = (self.prepared.dir(format, replica), self.meant_cold());
        let shards = self.prepared.shards(replica);
        if let Some(python) = self.python(format) {
            return python.load(&shards, cold, keep);
        }
        if !format.is_ours() {
            return crate::bench::baseline::load(&shards, &self.to);
        }
        let (loaded, report) = match (&self.pool, &self.to) {
            (Some(pool), Destination::Gpus(gpus, placement)) => {
                load::pooled::load(pool, &dir, gpus, *placement, &self.options, cancel)?
            }
            _ => load::load(&dir, &self.to, &self.options, cancel)?,
        };
        Ok(Done {
            elapsed_s: report.elapsed_s,
            phases: report.phases,
            bytes: report.bytes,
            path: report.path,
            path_reason: report.path_reason,
            bytes_in_place: InPlace::Ours(Box::new(loaded)),
        })
    }

    /// Takes a load's figures into its record; the clock has stopped, so here is the time to verify.
    fn fill_in(&mut self, record: &mut Record, format: Format, done: Done) {
        record.loading_time = Some(done.elapsed_s);
        record.phases = Some(done.phases);
        record.bytes = done.bytes;
        record.path = done.path;
        record.path_reason = done.path_reason;
        if format.is_ours() {
            (record.chunk_bytes, record.threads) = (self.options.chunk_bytes, self.options.threads as u64);
        }
        if self.args.no_verify {
            return;
        }
        let started = std::time::Instant::now();
        let wrong = self.mismatches(format, done.bytes_in_place);
        record.verify_s = Some(started.elapsed().as_secs_f64());
        record.verified = Some(wrong.as_ref().is_ok_and(Vec::is_empty));
        record.error = match wrong {
            Ok(wrong) if wrong.is_empty() => None,
            Ok(wrong) => Some(format!("the bytes are wrong: {}", text::in_short(&wrong))),
            Err(error) => Some(format!("could not be verified: {error:#}")),
        };
    }

    fn mismatches(&mut self, format: Format, bytes_in_place: InPlace) -> Result<Vec<String>> {
        let expected = &self.prepared.expected;
        match bytes_in_place {
            InPlace::Ours(loaded) => Ok(verify::check(&loaded, expected, &Cancel::new())?.wrong),
            InPlace::Baseline(tensors) => crate::bench::baseline::mismatches(&tensors, expected),
            InPlace::Python => match self.pythons.iter_mut().find(|python| python.format == format) {
                Some(python) => python.mismatches(expected),
                None => bail!("the Python process is gone"),
            },
        }
    }
}

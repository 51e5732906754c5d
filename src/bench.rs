//! Loads measured in turns against SafeTensors. Every record is on disk before the next load starts.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::checkpoint::input;
use crate::cli::{Baseline, BenchArgs, EngineChoice, Format, Mode};
use crate::interrupt::Cancel;
use crate::load::{self, Options, verify};
use prepare::Prepared;
use record::{COLD_RESIDENT_MAX, Record};

/// SafeTensors as Rust users load it.
mod baseline;
/// Evicting files and measuring residency.
pub mod cache;
/// The machine a run ran on.
pub mod environment;
/// The checkpoints of a run, made where they are missing.
mod prepare;
/// SafeTensors as Python users load it.
mod python;
/// The result file.
pub mod record;
/// The end of a run: table and plot.
mod summary;

impl Format {
    /// As in file names and records.
    pub fn name(self) -> &'static str {
        match self {
            Format::Sllm => "sllm",
            Format::Safetensors => "safetensors",
            Format::SafetensorsDirect => "safetensors-direct",
        }
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
    let options = Options::new(&args.engine)?;
    let mut formats = args.formats.clone();
    formats.dedup();
    if (1..formats.len()).any(|i| formats[..i].contains(&formats[i])) {
        bail!("--formats names a format twice");
    }
    let mut notes = Vec::new();
    notes.extend(load::command::destination(args.gpus.as_ref(), args.engine.engine)?);
    if args.mem_pool_size.is_some() {
        notes.push("--mem-pool-size is for loads to GPUs; loads into host memory use no pool".into());
    }
    notes.iter().for_each(|note| eprintln!("{note}"));
    let python = match args.baseline {
        Baseline::Python if formats.contains(&Format::Safetensors) => Some(python::Python::start()?),
        _ => None,
    };
    let count = args.replicas.unwrap_or(match args.mode {
        Mode::Cached => 5,
        Mode::Random => 30,
    });
    let input = input::open(&args.model, args.seed, args.hf_token.as_deref(), cancel)?;
    let on_disk = if args.mode == Mode::Random { count } else { 1 };
    let prepared = prepare::prepare(&input, &args.storage_path, on_disk, &formats, cancel)?;
    let mut run = Run::new(args, formats, count, options, prepared, python)?;
    run.write_environment(&notes)?;
    run.measure(cancel)?;
    summary::print(&run, args.json)?;
    if cancel.is_set() {
        return Ok(Outcome::Interrupted);
    }
    let bad = |r: &Record| r.error.is_some() || r.verified == Some(false);
    Ok(if run.records().any(bad) { Outcome::No } else { Outcome::Yes })
}

/// One run of the benchmark.
struct Run<'a> {
    args: &'a BenchArgs,
    formats: Vec<Format>,
    count: u32,
    options: Options,
    prepared: Prepared,
    python: Option<python::Python>,
    run_id: String,
    /// Records so far, by format.
    files: Vec<(PathBuf, Vec<Record>)>,
}

/// What a load of any kind leaves: the figures for its record, and what to verify.
struct Done {
    elapsed_s: f64,
    phases: record::Phases,
    bytes: u64,
    path: String,
    path_reason: String,
    bytes_in_place: InPlace,
}

/// The bytes of a finished load.
enum InPlace {
    Ours(Box<load::Loaded>),
    Baseline(Vec<(String, Vec<u8>)>),
    /// In the Python process, which hands out digests.
    Python,
}

impl<'a> Run<'a> {
    fn new(
        args: &'a BenchArgs,
        formats: Vec<Format>,
        count: u32,
        options: Options,
        prepared: Prepared,
        python: Option<python::Python>,
    ) -> Result<Run<'a>> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let run_id = format!("{}-{}", seconds.as_millis(), std::process::id());
        let path = |f: &Format| {
            record::result_path(&args.results, &prepared.model, f.name(), count.into(), args.mode.name())
        };
        let files = formats.iter().map(|f| (path(f), Vec::new())).collect();
        Ok(Run { args, formats, count, options, prepared, python, run_id, files })
    }

    fn write_environment(&self, notes: &[String]) -> Result<()> {
        let mut environment = environment::describe(&self.args.storage_path);
        environment["notes"] = notes.into();
        if let Some(python) = &self.python {
            environment["python"] = python.versions.clone();
        }
        environment::write(&self.args.results, &self.run_id, environment)
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.files.iter().flat_map(|(_, records)| records)
    }

    /// Formats take turns, so that drift of the machine hits all of them.
    fn measure(&mut self, cancel: &Cancel) -> Result<()> {
        let mut replicas: Vec<usize> = match self.args.mode {
            Mode::Cached => vec![0; self.count as usize],
            Mode::Random => (0..self.count as usize).collect(),
        };
        if self.args.mode == Mode::Random {
            fastrand::Rng::with_seed(self.args.seed).shuffle(&mut replicas);
        } else {
            for format in self.formats.clone() {
                // What goes wrong here goes wrong in the measured loads too, and is recorded there.
                let _ = self.load(format, 0, cancel);
            }
        }
        let bar = crate::progress::count_bar(u64::from(self.count) * self.formats.len() as u64, "loads");
        for (iteration, replica) in replicas.into_iter().enumerate() {
            for f in 0..self.formats.len() {
                if cancel.is_set() {
                    return Ok(());
                }
                let record = self.one(self.formats[f], replica, iteration as u64)?;
                let (path, records) = &mut self.files[f];
                records.push(record);
                record::write_records(path, records)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One measured load, as a record whatever comes of it.
    fn one(&mut self, format: Format, replica: usize, iteration: u64) -> Result<Record> {
        let dir = self.prepared.dir(format, replica);
        let meant_cold = self.args.mode == Mode::Random || self.args.cold;
        if meant_cold {
            cache::evict(&dir)?;
        }
        let resident_before = cache::resident_share(&dir)?;
        let started_at_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut record = Record {
            model_name: format!("{}_{replica}", self.prepared.model),
            format: format.name().into(),
            mode: self.args.mode.name().into(),
            engine: self.engine_asked(format).into(),
            gpus: vec!["host".into()],
            replica: replica as u64,
            iteration,
            started_at_s,
            resident_before,
            cache_state: match resident_before {
                Some(share) if share > COLD_RESIDENT_MAX => "warm".into(),
                Some(_) => "cold".into(),
                None => "unknown".into(),
            },
            meant_cold,
            run_id: self.run_id.clone(),
            ..Record::default()
        };
        // A load under way is finished: Ctrl-C ends the run between loads.
        match self.load(format, replica, &Cancel::new()) {
            Err(error) => record.error = Some(format!("{error:#}")),
            Ok(done) => self.fill_in(&mut record, format, done),
        }
        Ok(record)
    }

    fn engine_asked(&self, format: Format) -> &'static str {
        match (format, self.args.baseline, self.args.engine.engine) {
            (Format::Safetensors, Baseline::Rust, _) => "baseline-rust",
            (Format::Safetensors, Baseline::Python, _) => "baseline-python",
            (_, _, EngineChoice::Auto) => "auto",
            (_, _, EngineChoice::Host) => "host",
        }
    }

    fn load(&mut self, format: Format, replica: usize, cancel: &Cancel) -> Result<Done> {
        let dir = self.prepared.dir(format, replica);
        if format == Format::Safetensors {
            return match &mut self.python {
                Some(python) => python.load(&dir),
                None => baseline::load(&dir),
            };
        }
        let (loaded, report) = load::load(&dir, &self.options, cancel)?;
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
        if format != Format::Safetensors {
            (record.chunk_bytes, record.threads) = (self.options.chunk_bytes, self.options.threads as u64);
        }
        if self.args.no_verify {
            return;
        }
        let started = std::time::Instant::now();
        let wrong = self.mismatches(done.bytes_in_place);
        record.verify_s = Some(started.elapsed().as_secs_f64());
        record.verified = Some(wrong.as_ref().is_ok_and(Vec::is_empty));
        record.error = match wrong {
            Ok(wrong) if wrong.is_empty() => None,
            Ok(wrong) => Some(format!("the bytes are wrong: {}", wrong.join("; "))),
            Err(error) => Some(format!("could not be verified: {error:#}")),
        };
    }

    fn mismatches(&mut self, bytes_in_place: InPlace) -> Result<Vec<String>> {
        let expected = &self.prepared.expected;
        match bytes_in_place {
            InPlace::Ours(loaded) => verify::check(&loaded, expected),
            InPlace::Baseline(tensors) => {
                let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
                let bytes: Vec<&[u8]> = tensors.iter().map(|(_, bytes)| bytes.as_slice()).collect();
                let mut wrong = verify::mismatches(&names, &bytes, expected)?;
                wrong.extend(
                    expected
                        .keys()
                        .filter(|n| !names.contains(&n.as_str()))
                        .map(|n| format!("'{n}' missing")),
                );
                Ok(wrong)
            }
            InPlace::Python => match &mut self.python {
                Some(python) => python.mismatches(expected),
                None => bail!("the Python process is gone"),
            },
        }
    }
}

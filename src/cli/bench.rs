//! `sllm-gds bench`: the run, then the comparison, where the files are, and what to be wary of.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::bench::format::{Baseline, Format, Mode};
use crate::bench::hold;
use crate::bench::{Bench, Measured, NamedTwice, NoPython, NotReused, PoolSettings, Settings, WantsGpu};
use crate::cli::engine::EngineArgs;
use crate::cli::help;
use crate::cli::load::{Ready, prepare};
use crate::cli::words::{Gpus, parse_gpus, parse_size};
use crate::cli::{Outcome, print, progress};
use crate::load::{Destination, Options};
use crate::origin::input;
use crate::os::cancel::Cancel;
use crate::record::result::Record;
use crate::record::{environment, result};
use crate::write::input::Input;
use crate::write::save::NoSpace;

/// ServerlessLLM's store has chunks of this size by default.
const POOL_CHUNK_BYTES: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A directory of safetensors, a hub id, or synthetic:<id>[@<scale>]
    #[arg(long, alias = "model-name", default_value = "synthetic:facebook/opt-125m", help_heading = help::WHAT)]
    pub model: String,
    /// One checkpoint again and again, or many replicas in random order, each read cold
    #[arg(long, alias = "benchmark-type", value_enum, default_value_t = Mode::Cached, help_heading = help::WHAT)]
    pub mode: Mode,
    /// Measured loads of each format (cached: 5), or replicas on disk (random: 30)
    #[arg(long, alias = "num-replicas", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N", help_heading = help::WHAT)]
    pub replicas: Option<u32>,
    /// Where to load to: none (host memory), all, or GPUs as 0,1 or UUIDs [default: 0, or none without a GPU]
    #[arg(long, value_parser = parse_gpus, help_heading = help::WHERE)]
    pub gpus: Option<Gpus>,
    /// What to compare, in turns
    ///
    /// A peer runs in the Python that SLLM_GDS_PYTHON_<PEER> names, else PYTHON, else python3.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sllm,safetensors", help_heading = help::WHAT)]
    pub formats: Vec<Format>,
    /// Where the models to load are, or will be saved
    #[arg(long, default_value = "./models", value_name = "DIR", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// Where the records of the loads go
    #[arg(long, alias = "results-path", default_value = "results", value_name = "DIR", help_heading = help::OUTPUT)]
    pub results: PathBuf,
    /// Keep loaded checkpoints in a pinned pool of this size, and copy from there (GPU loads)
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING)]
    pub mem_pool_size: Option<u64>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Whose SafeTensors: the Rust crate in this process, or the Python library in its own
    #[arg(long, value_enum, default_value_t = Baseline::Rust, help_heading = help::WHAT)]
    pub baseline: Baseline,
    /// Make the whole pool before the first load, not as it is needed
    #[arg(long, requires = "mem_pool_size", help_heading = help::TUNING)]
    pub prefault: bool,
    /// Evict before every load, in cached mode too
    #[arg(long, help_heading = help::WHAT)]
    pub cold: bool,
    /// Begin loads without making the memory that they need present first
    ///
    /// Without this it is touched and given back before each load, off the clock: a virtual machine's host may have taken what lay
    /// free, and the first touch would be part of the load.
    #[arg(long, help_heading = help::TUNING)]
    pub no_ready_memory: bool,
    /// Seed of the random order and of synthetic values
    #[arg(long, default_value_t = 0, help_heading = help::WHAT)]
    pub seed: u64,
    /// A token for gated models on the hub
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, help_heading = help::WHAT)]
    pub hf_token: Option<String>,
    /// Do not check the bytes after each load
    #[arg(long, help_heading = help::TUNING)]
    pub no_verify: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Mode] {
        &Mode::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Baseline {
    fn value_variants<'a>() -> &'a [Baseline] {
        &Baseline::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Format] {
        &Format::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Format::Sllm => "Our loader on the partitioned layout",
            Format::SllmPacked => "Our loader on packed weights, which it packs once",
            Format::Safetensors => "The baseline: SafeTensors as its users load",
            Format::SafetensorsDirect => "Our loader on the unmodified safetensors files",
            Format::SafetensorsPrefetch => {
                "A peer in Python, on the same files: safetensors 0.9 and its prefetch (GPUs only)"
            }
            Format::Fastsafetensors => "A peer in Python: fastsafetensors",
            Format::RunaiStreamer => "A peer in Python: Run:ai Model Streamer",
            Format::Instanttensor => "A peer in Python: InstantTensor (GPUs only)",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

pub fn run(args: &BenchArgs, cancel: &Cancel) -> Result<Outcome> {
    let Ready { to, note, mut options, context_s } =
        prepare(args.gpus.as_ref(), &args.engine, &args.storage_path)?;
    options.poison = !args.no_verify;
    let mut notes: Vec<String> = note.into_iter().collect();
    if args.mem_pool_size.is_some() && matches!(to, Destination::Host) {
        notes.push("--mem-pool-size is for loads to GPUs; loads into host memory use no pool".into());
    }
    notes.iter().for_each(print::tell);
    let into_host = matches!(to, Destination::Host);
    let settings = settings(args, &options);
    let count = settings.count;
    let bench = Bench::start(settings, to, options, cancel).map_err(name_switch)?;
    let at_results = || format!("--results {}", args.results.display());
    let claim = result::claim(&args.results).with_context(at_results)?;
    print::tell_notes(claim.note.as_slice());
    environment::read(&args.results).with_context(at_results)?;
    let progress = progress::progress();
    let input = input::open(&args.model, args.seed, args.hf_token.as_deref(), cancel, &progress)?;
    print::tell_notes(&input.notes);
    print::tell_left_out(&input.sidecars.left_out);
    tell_hold(&input, into_host && !args.no_ready_memory);
    let measured = bench.measure(&input, &notes, context_s, cancel, &progress).map_err(name_switch)?;
    summarize(args, count, &measured)?;
    if cancel.is_set() {
        print::tell("interrupted: the loads that had ended are kept");
        return Ok(Outcome::Interrupted);
    }
    let bad = |r: &Record| r.error.is_some() || r.verified == Some(false);
    Ok(if measured.records().any(bad) { Outcome::No } else { Outcome::Yes })
}

/// Why nothing seems to happen before a load.
fn tell_hold(input: &Input, into_host: bool) {
    let bytes =
        input.tensors.iter().filter(|tensor| tensor.tied_to.is_none()).map(|tensor| tensor.bytes).sum();
    let time = hold::time(into_host, bytes);
    if !time.is_zero() {
        print::tell(format_args!(
            "note: this machine's host takes back memory that lies free (virtio balloon), so that of each load is kept present for \
             {} s before it begins, off the clock; --no-ready-memory leaves that out",
            time.as_secs_f64()
        ));
    }
}

/// `options` are those of the loads.
fn settings(args: &BenchArgs, options: &Options) -> Settings {
    let default_count = match args.mode {
        Mode::Cached => 5,
        Mode::Random => 30,
    };
    let pool = args.mem_pool_size.map(|bytes| PoolSettings {
        bytes,
        chunk_bytes: args.engine.chunk_size.map_or(POOL_CHUNK_BYTES, |_| options.chunk_bytes),
        prefault: args.prefault,
    });
    Settings {
        mode: args.mode,
        count: args.replicas.unwrap_or(default_count),
        formats: args.formats.clone(),
        baseline: args.baseline,
        cold: args.cold,
        ready_memory: !args.no_ready_memory,
        seed: args.seed,
        verify: !args.no_verify,
        engine: args.engine.engine.name(),
        storage_path: args.storage_path.clone(),
        results: args.results.clone(),
        pool,
    }
}

/// Adds the switch to an error that another value of it would mend.
fn name_switch(error: anyhow::Error) -> anyhow::Error {
    if error.is::<NoSpace>() || error.is::<NotReused>() {
        error.context("--storage-path")
    } else if error.is::<NamedTwice>() {
        error.context("--formats")
    } else if error.is::<WantsGpu>() {
        anyhow!("{error}: leave it out of --formats, or name a GPU in --gpus")
    } else {
        match error.downcast_ref() {
            Some(NoPython(Format::Safetensors)) => error.context("--baseline python"),
            Some(NoPython(format)) => {
                let switch = format!("--formats {}", format.name());
                error.context(switch)
            }
            None => error,
        }
    }
}

#[cfg(feature = "analyze")]
fn summarize(args: &BenchArgs, count: u32, run: &Measured) -> Result<()> {
    let written: Vec<PathBuf> =
        run.files.iter().filter(|(_, records)| !records.is_empty()).map(|(path, _)| path.clone()).collect();
    if written.is_empty() {
        print::tell("no load was finished: there is nothing to compare");
        return Ok(());
    }
    let analysis = crate::analyze::summarize(&written)?;
    if args.json {
        print::say_json(&analysis.json()?);
    } else {
        print::say_page(&analysis.text(None)?);
    }
    for note in &analysis.notes {
        print::tell(note);
    }
    files_and_warnings(run);
    let plot =
        args.results.join(format!("{}_{}_{}.png", run.model.replace('/', "_"), count, args.mode.name()));
    analysis.plot(&plot)?;
    print::tell(format_args!("wrote {}", plot.display()));
    analysis.summary(&args.results)?;
    print::tell(format_args!("wrote {}", args.results.join("summary.txt").display()));
    Ok(())
}

#[cfg(not(feature = "analyze"))]
fn summarize(args: &BenchArgs, _count: u32, run: &Measured) -> Result<()> {
    if args.json {
        print::say_json(&serde_json::to_string_pretty(&run.records().collect::<Vec<_>>())?);
        return Ok(());
    }
    for record in run.records() {
        let time = record.loading_time.map_or("-".into(), |s| format!("{s:.4} s"));
        print::say(format_args!(
            "{} {} {time} {} {}",
            record.model_name, record.format, record.path, record.cache_state
        ));
    }
    files_and_warnings(run);
    Ok(())
}

/// Says which loads failed, and which were warm though meant cold.
fn files_and_warnings(run: &Measured) {
    for record in run.records() {
        if let Some(error) = &record.error {
            print::tell(format_args!(
                "error: {} {} iteration {}: {error}",
                record.model_name, record.format, record.iteration
            ));
        }
    }
    let warm = run.records().filter(|r| r.meant_cold && r.cache_state != "cold").count();
    if warm > 0 {
        print::tell(format_args!(
            "warning: {warm} loads were meant to be cold, and their files were not out of the page cache"
        ));
    }
    let partly = run
        .records()
        .filter(|r| !r.meant_cold && r.resident_before.is_some_and(|share| share < 0.99))
        .count();
    if partly > 0 {
        print::tell(format_args!(
            "warning: {partly} loads were meant to be warm, and their files were not whole in the page cache"
        ));
    }
    for (path, _) in run.files.iter().filter(|(_, records)| !records.is_empty()) {
        print::tell(format_args!("wrote {}", path.display()));
    }
}

//! `sllm-gds qualify`: a hardware engineer's acceptance run.
//!
//! Doctor's checks, ceilings measured here and now, real loads, health over all of it, and a verdict. Everything that
//! is seen is gathered in [`crate::qualify::seen::Seen`]; the [`verdict`] and its [`causes`] are worked out from that alone.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::cli::load::{Ready, prepare};
use crate::cli::{EngineChoice, Gpus, QualifyArgs};
use crate::gpu;
use crate::load::{Destination, Options};
use crate::node::block::drives_below;
use crate::node::source::Source;
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::memory::available_bytes;
use crate::os::sys;
use crate::os::text;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::place::Place;
use crate::qualify::profile::Rule;
use crate::qualify::report::Report;
use crate::qualify::run::Run;
use crate::qualify::seen::Seen;
use crate::qualify::verdict::Judged;
use crate::record::environment;
use crate::write::save::check_space;

pub use crate::qualify::report::JSON_FILE as RECORD_FILE;

const SIZE_DEFAULT_BYTES: u64 = 8 << 30;

/// Refuses to write this run's record over the one that it is judged by.
fn spare_the_reference(args: &QualifyArgs) -> Result<()> {
    let Some(reference) = &args.against else { return Ok(()) };
    let own = args.results.join(crate::qualify::report::JSON_FILE);
    if own.canonicalize().is_ok_and(|own| reference.canonicalize().is_ok_and(|reference| reference == own)) {
        bail!("--against {} would be overwritten: name other --results", reference.display());
    }
    Ok(())
}

pub fn run(args: &QualifyArgs, cancel: &Cancel) -> Result<Outcome> {
    let rule = Rule::of(args)?;
    spare_the_reference(args)?;
    let place = Place::new(&args.path)?;
    let _claim = crate::record::result::claim(&args.results)?;
    environment::read(&args.results)?;
    let path = args.path.canonicalize().with_context(|| format!("resolve {}", args.path.display()))?;
    let source = Source::live(false);
    let mut notes = Vec::new();
    let (to, options) = open(args, &path, &mut notes)?;
    let gpus = match &to {
        Destination::Host => Vec::new(),
        Destination::Gpus(gpus, _) => crate::qualify::gpus::qualified(&source, gpus)?,
    };
    let size_bytes = size(args, &path, &gpus)?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    let run_id = format!("{}-{}", started.as_millis(), std::process::id());
    let drives = drives_below(&source, &path);
    let mut run = Run {
        seen: Seen::new(&drives, &gpus, notes),
        args,
        source: &source,
        path: &path,
        to: &to,
        options,
        gpus: &gpus,
        size_bytes,
        run_id: &run_id,
        drives,
        storage: String::new(),
        gds: String::new(),
        model: String::new(),
        raw_file_bytes: 0,
        checkpoint_bytes: 0,
    };
    let ended = run.measure(&place, cancel);
    place.remove()?;
    let interrupted = match ended {
        Err(error) if error.is::<Interrupted>() || error.root_cause().is::<Interrupted>() => true,
        Err(error) => return Err(error),
        Ok(()) => false,
    };
    let nothing_new = interrupted && run.seen.measured.is_empty() && run.seen.failures.is_empty();
    let keep_earlier = nothing_new && args.results.join(crate::qualify::report::JSON_FILE).exists();
    run.seen.notes.extend(last_notes(&run, &rule, keep_earlier)?);
    let without_gpus = args.gpus == Some(Gpus::None);
    let report = Report::new(&run, &rule, without_gpus, interrupted, started.as_secs_f64());
    if !keep_earlier {
        report.write(&args.results, &run)?;
    }
    match args.json {
        true => text::say_json(&serde_json::to_string_pretty(&report)?),
        false => text::say_page(&crate::qualify::page::text(&report, &args.results)),
    }
    Ok(match (interrupted, report.judged) {
        (true, _) => Outcome::Interrupted,
        (_, Judged::Passed) => Outcome::Yes,
        (_, Judged::Failed) => Outcome::No,
        (_, Judged::Unknown) => Outcome::Unknown,
    })
}

/// What is to be said of the rule and the files once all is measured.
fn last_notes(run: &Run<'_>, rule: &Rule, keep_earlier: bool) -> Result<Vec<String>> {
    let (args, seen) = (run.args, &run.seen);
    let mut notes = match rule {
        Rule::Against(earlier, _) => {
            earlier.differences(&run.model, run.size_bytes, args.duration.as_secs_f64())
        }
        Rule::Profile(_) => Vec::new(),
    };
    match keep_earlier {
        true => notes.push("nothing was measured yet: the files are those of the earlier run".into()),
        false => {
            notes.extend(crate::qualify::records::left(&args.results, &run.model, &seen.cold, &seen.warm)?)
        }
    }
    Ok(notes)
}

/// Settles where to load to: all GPUs where there are any and nothing else was asked for.
fn open(args: &QualifyArgs, path: &Path, notes: &mut Vec<String>) -> Result<(Destination, Options)> {
    let to_host = args.engine.engine == EngineChoice::Host;
    let gpus = match (&args.gpus, gpu::count()) {
        (Some(gpus), _) => gpus.clone(),
        (None, _) if to_host => Gpus::None,
        (None, Ok(_)) => Gpus::All,
        (None, Err(why)) => {
            notes.push(format!("no CUDA device ({why}): loads go to host memory"));
            Gpus::None
        }
    };
    let asked = if to_host && gpus == Gpus::None { None } else { Some(&gpus) };
    let Ready { to, note, options, .. } = prepare(asked, &args.engine, path)?;
    notes.extend(note);
    Ok((to, options))
}

/// Bytes to measure with: of the raw file and of the checkpoint, which lie there one after the other.
fn size(args: &QualifyArgs, path: &Path, gpus: &[QualifiedGpu]) -> Result<u64> {
    let free = gpus.iter().map(|gpu| Ok(gpu.gpu.memory_info()?.0)).collect::<Result<Vec<u64>>>()?;
    let memory = free.into_iter().min().or_else(available_bytes).unwrap_or(u64::MAX);
    let disk = sys::free_bytes(path).with_context(|| format!("ask for free space at {}", path.display()))?;
    let size = args.size.unwrap_or(SIZE_DEFAULT_BYTES.min(disk / 4).min(memory / 4));
    let here = path.display();
    if crate::qualify::raw::file_bytes(size) == 0 || crate::qualify::shapes::of(size).is_err() {
        let why = match args.size {
            Some(size) => format!("--size {size}"),
            None => format!("a quarter of what is free ({disk} bytes at {here}, {memory} of memory)"),
        };
        bail!(
            "{why} is too little to measure with: make room, or name at least --size {}MB",
            crate::qualify::shapes::least_mib()?
        );
    }
    check_space(path, size, "--path or a smaller --size")?;
    if size > memory {
        bail!(
            "--size {size} does not fit into the memory to load to, which has {memory} bytes free: name less"
        );
    }
    Ok(size)
}

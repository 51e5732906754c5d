//! `sllm-gds load`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};

use crate::checkpoint::Checkpoint;
use crate::cli::CheckpointArg;
use crate::cli::Outcome;
use crate::cli::help;
use crate::cli::words::parse_gpus;
use crate::cli::{EngineArgs, EngineChoice, Gpus, print};
use crate::gpu;
use crate::load::{Clock, Destination, LinkReport, Links, LoadReport, Options, gds, links, load, verify};
use crate::os::cancel::Cancel;
use crate::os::error::Error;
use crate::os::text::size;
use clap::Args;

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// Where to load to: none (host memory), all, or GPUs as 0,1 or UUIDs [default: 0, or none without a GPU]
    #[arg(long, value_parser = parse_gpus, help_heading = help::WHERE)]
    pub gpus: Option<Gpus>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Check every byte where it lies now: by the digests of the save, or by a second read
    #[arg(long, help_heading = help::OUTPUT)]
    pub verify: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &LoadArgs, cancel: &Cancel) -> Result<Outcome> {
    let path = args.checkpoint.path();
    let Ready { to, note, mut options, context_s } = prepare(args.gpus.as_ref(), &args.engine, &path)?;
    options.poison = args.verify;
    options.storage_path = Some(args.checkpoint.storage_path.clone());
    let (mut loaded, report) =
        load(&path, &to, &options, cancel).map_err(|error| args.checkpoint.explain(error))?;
    Arc::make_mut(&mut loaded.checkpoint).chosen.passed_over =
        Checkpoint::passed_over(&args.checkpoint.name, &args.checkpoint.storage_path);
    loaded.checkpoint.notes().iter().for_each(|note| print::tell(format_args!("note: {note}")));
    let verified = match args.verify {
        false => None,
        true => {
            let (expected, against) = verify::expected(&loaded, cancel)?;
            Some((verify::check(&loaded, &expected, cancel)?, against))
        }
    };
    let good = verified.as_ref().is_none_or(|(checked, _)| checked.wrong.is_empty());
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["note"] = note.into();
        value["destinations"] = to.labels().into();
        value["context_s"] = context_s.into();
        value["verified"] = verified.as_ref().map(|_| good).into();
        value["verified_against"] = verified.as_ref().map(|(_, against)| *against).into();
        let checked = verified.map(|(checked, _)| checked).unwrap_or_default();
        let kernel = (checked.kernel_s > 0.0).then_some(checked.kernel_bytes as f64 / checked.kernel_s / 1e9);
        value["digest_kernel_gb_per_s"] = kernel.into();
        value["mismatches"] = checked.wrong.into();
        print::say_json(&serde_json::to_string_pretty(&value)?);
    } else {
        if let Some(note) = &note {
            print::say(note);
        }
        print::say_page(&in_words(&report));
        if report.links.len() > 1 {
            print::say(format_args!("links     {}", links_in_words(&report.links)));
        }
        if let Destination::Gpus(gpus, placement) = &to {
            print::say(format_args!(
                "to        {gpus:?}, {placement:?}; contexts up in {context_s:.2} s, not counted above"
            ));
        }
        match &verified {
            Some((checked, against)) => {
                print::tell_findings(&checked.wrong);
                print::say(format_args!(
                    "verified  {} ({against})",
                    if good { "every tensor" } else { "FAILED" }
                ));
            }
            None => print::say("verified  no: the bytes were not checked; --verify checks every tensor"),
        }
    }
    Ok(if good { Outcome::Yes } else { Outcome::No })
}

/// Where to load to and how: contexts are up and, where cuFile was chosen, its driver is open.
pub struct Ready {
    pub to: Destination,
    /// What the user may not expect.
    pub note: Option<String>,
    pub options: Options,
    /// Seconds for both, side by side: what a server pays once.
    pub context_s: f64,
}

/// Settles where to load to and by which engine. `path` is where the checkpoints lie.
pub fn prepare(gpus: Option<&Gpus>, args: &EngineArgs, path: &Path) -> Result<Ready> {
    args.check()?;
    let settings = args.settings();
    let mut clock = Clock::start();
    // Without a GPU there is nothing to open cuFile for, and an error need not wait for it.
    let has_gpu = gpu::count().is_ok();
    let (destination, choice) = std::thread::scope(|scope| {
        let choice = scope.spawn(|| match has_gpu && !matches!(gpus, Some(Gpus::None)) {
            true => gds::choose::choose(&settings, path),
            false => Ok(Err(None)),
        });
        let destination = destination(gpus, args);
        (destination, choice.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (to, note) = destination?;
    let choice = match &to {
        Destination::Host => Err(None),
        Destination::Gpus(..) => choice?,
    };
    if matches!(to, Destination::Host) && settings.links != Links::Auto {
        bail!("--links is for loads to GPUs, and this one goes to host memory: leave it out");
    }
    let open = |labels: &[String]| gpu::open(labels).map_err(Error::NotFound);
    let helpers = links::helpers(&settings.links, &to, open)?;
    let context_s = clock.lap();
    let options = Options { helpers, ..Options::new(&settings, &to, choice)? };
    Ok(Ready { to, note, options, context_s })
}

/// Settles where to load to: opens the GPUs that were asked for, or says why host memory it is. Returns the
/// line to tell the user when that is not what they might expect.
fn destination(gpus: Option<&Gpus>, args: &EngineArgs) -> Result<(Destination, Option<String>)> {
    let host = |note: Option<String>| Ok((Destination::Host, note));
    match (args.engine, gpus) {
        (EngineChoice::Host, None | Some(Gpus::None)) => host(None),
        (EngineChoice::Host, Some(_)) => {
            bail!("--engine host loads into host memory: leave --gpus out, or say none")
        }
        (EngineChoice::Pinned | EngineChoice::Gds, Some(Gpus::None)) => {
            bail!("--engine pinned and gds load to GPUs, and --gpus says none")
        }
        (EngineChoice::Auto, Some(Gpus::None)) => host(None),
        (EngineChoice::Auto, None) if gpu::count().is_err() => {
            let why = gpu::count().err().unwrap_or_default();
            host(Some(format!("no CUDA device ({why}): loading into host memory")))
        }
        (EngineChoice::Auto | EngineChoice::Pinned | EngineChoice::Gds, list) => {
            let hint = "to load into host memory, say --gpus none";
            gpu::count().map_err(|why| anyhow!("no CUDA device: {why}; {hint}"))?;
            // One GPU is what a load without further words goes to, as with any other CUDA program.
            let opened = match list {
                None => gpu::open(&["0".into()]),
                Some(Gpus::List(labels)) => gpu::open(labels),
                Some(Gpus::All) => gpu::open_all(),
                Some(Gpus::None) => Ok(Vec::new()),
            };
            let gpus = opened.map_err(|why| anyhow!("{why}; {hint}"))?;
            Ok((Destination::Gpus(gpus, args.placement), None))
        }
    }
}

fn links_in_words(links: &[LinkReport]) -> String {
    let link = |link: &LinkReport| {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let passed_on = match link.passed_on_bytes {
            0 => String::new(),
            bytes => format!(", {:.2} GB of them passed on", gb(bytes)),
        };
        let gpus = link.gpus.join(" and ");
        format!("GPU {gpus}: {:.2} GB at {:.2} GB/s{passed_on}", gb(link.bytes), link.gb_per_s)
    };
    links.iter().map(link).collect::<Vec<_>>().join("; ")
}

fn in_words(r: &LoadReport) -> String {
    let p = &r.phases;
    let ms = |s: f64| format!("{:.1} ms", s * 1e3);
    // A few pages more or less are no packing.
    let is_packed = r.read_bytes > 0 && r.read_bytes < r.bytes / 100 * 97;
    let of = if is_packed { " of unpacked bytes" } else { "" };
    let rate = if is_packed { format!(" at {:.2} GB/s", r.read_gb_per_s) } else { String::new() };
    format!(
        "loaded    {} in {:.4} s: {:.2} GB/s{of}\npath      {} ({})\nphases    open {}, plan {}, allocate {}, \
         register {}, transfer {}\nreads     {}{rate} with {} threads of {} KiB chunks, {} MiB pinned\n",
        size(r.bytes),
        r.elapsed_s,
        r.gb_per_s,
        r.path,
        r.path_reason,
        ms(p.open_s),
        ms(p.plan_s),
        ms(p.allocate_s),
        ms(p.register_s),
        ms(p.transfer_s),
        size(r.read_bytes),
        r.threads,
        r.chunk_bytes >> 10,
        r.staging_bytes >> 20
    )
}

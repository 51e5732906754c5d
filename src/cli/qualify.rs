//! `sllm-gds qualify`: a hardware engineer's acceptance run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::engine::EngineArgs;
use crate::cli::help;
use crate::cli::load::{Ready, prepare};
use crate::cli::words::{parse_duration, parse_gpus, parse_size, parse_tolerance};
use crate::cli::{EngineChoice, Gpus, Outcome, print};
use crate::doctor;
use crate::gpu;
use crate::gpu::link_facts;
use crate::load::{Destination, Options};
use crate::node::block::drives_below;
use crate::node::gpu_links::GpuLinks;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;
use crate::os::cancel::Cancel;
use crate::qualify::at_once::{Group, groups};
use crate::qualify::estimate::{Estimate, probe};
use crate::qualify::gpus::{QualifiedGpu, qualified};
use crate::qualify::judged::Judged;
use crate::qualify::limits::gpus_gb_per_s;
use crate::qualify::profile::{Rule, Setting, SettingDifference};
use crate::qualify::report::Report;
use crate::qualify::run::Run;
use crate::qualify::schedule::Schedule;
use crate::qualify::scratch::{NotADirectory, ScratchDirectory};
use crate::qualify::settings::Settings;
use crate::qualify::size::{Free, shrunk};
use crate::qualify::{files, fio, page, records};
use crate::record::names::QUALIFY_FILE;
use crate::record::{environment, result};
use crate::write::save::check_space;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct QualifyArgs {
    /// A directory of the file system to measure: what is written there is removed again
    #[arg(long, help_heading = help::WHERE)]
    pub path: PathBuf,
    /// Where to load to: none (host memory), all, or GPUs as 0,1 or UUIDs [default: all, or none without a GPU]
    #[arg(long, value_parser = parse_gpus, help_heading = help::WHERE)]
    pub gpus: Option<Gpus>,
    /// What a good node reaches: h100-sxm-nvme4, h200-pcie5, a5000-nvme2, laptop, or a TOML file
    ///
    /// Without one there are no floors in GB/s, only shares of what links and parts allow.
    #[arg(long, value_name = "FILE.toml|NAME", help_heading = help::WHAT)]
    pub profile: Option<String>,
    /// Judge by an earlier node instead: the qualify.json that it left
    #[arg(long, value_name = "RECORD.json", conflicts_with = "profile", help_heading = help::WHAT)]
    pub against: Option<PathBuf>,
    /// With --against: how much less than the earlier node is still good
    #[arg(long, default_value = "10%", value_parser = parse_tolerance, value_name = "PERCENT", requires = "against", help_heading = help::WHAT)]
    pub tolerance: f64,
    /// Measuring time in all, shared out
    ///
    /// Each measurement is made at least five times, however long that takes. What keeps memory present before loads into host memory
    /// (`bench --help`) comes on top.
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "TIME", help_heading = help::WHAT)]
    pub duration: Duration,
    /// Bytes of the file and of the checkpoint to measure with [default: 8GB, or what fits]
    ///
    /// They lie there one after the other. The default is at most a quarter of the free space and of the memory to load into, and less
    /// where ten cold loads would not fit into the time.
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::WHAT)]
    pub size: Option<u64>,
    /// Where qualify.json, qualify.html and the records of the loads go
    #[arg(long, alias = "results-path", default_value = "results", help_heading = help::OUTPUT)]
    pub results: PathBuf,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print qualify.json instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &QualifyArgs, cancel: &Cancel) -> Result<Outcome> {
    let rule = rule(args)?;
    spare_the_reference(args)?;
    let scratch = scratch(&args.path)?;
    let claim = result::claim(&args.results).context("--results")?;
    if let Some(note) = &claim.note {
        print::tell(format_args!("note: {note}"));
    }
    environment::read(&args.results)?;
    let mut notes = Vec::new();
    let (settings, estimate) = settings(args, &scratch, &mut notes, cancel)?;
    let tell_stage = |stage: &_| print::tell(format_args!("… {}", estimate.stage_in_words(stage)));
    let mut run = Run::new(&settings, notes, &tell_stage)?;
    let interrupted = run.measure(scratch, cancel)?;
    let is_kept = interrupted && run.has_measured_nothing() && args.results.join(QUALIFY_FILE).exists();
    run.seen.notes.extend(last_notes(args, &run, &rule, is_kept)?);
    let report = Report::new(&run, &rule, interrupted);
    if !is_kept {
        files::write(&report, &args.results)?;
    }
    match args.json {
        true => print::say_json(&serde_json::to_string_pretty(&report)?),
        false => print::say_page(&page::text(&report, &args.results)),
    }
    Ok(match (interrupted, report.judged) {
        (true, _) => Outcome::Interrupted,
        (_, Judged::Passed) => Outcome::Yes,
        (_, Judged::Failed) => Outcome::No,
        (_, Judged::Unknown) => Outcome::Unknown,
    })
}

/// What the arguments name; before any work, so that a slip costs none.
fn rule(args: &QualifyArgs) -> Result<Rule> {
    if let Some(record) = &args.against {
        return Rule::of_earlier(record, args.tolerance)
            .with_context(|| format!("--against {}", record.display()));
    }
    let name = args.profile.as_deref();
    Rule::of_profile(name).with_context(|| format!("--profile {}", name.unwrap_or("default")))
}

/// Refuses to write this run's record over the one that it is judged by.
fn spare_the_reference(args: &QualifyArgs) -> Result<()> {
    let Some(reference) = &args.against else { return Ok(()) };
    let own = args.results.join(QUALIFY_FILE);
    if own.canonicalize().is_ok_and(|own| reference.canonicalize().is_ok_and(|reference| reference == own)) {
        bail!("--against {} would be overwritten: name other --results", reference.display());
    }
    Ok(())
}

fn scratch(path: &Path) -> Result<ScratchDirectory> {
    let scratch = match ScratchDirectory::new(path) {
        Err(error) if error.is::<NotADirectory>() => bail!("--path {} is {error}", path.display()),
        made => made.with_context(|| format!("--path {}", path.display()))?,
    };
    scratch.notes.iter().for_each(|note| print::tell(format_args!("note: {note}")));
    Ok(scratch)
}

/// Opens the GPUs, refuses what can't be measured, says what it will take, and has doctor examine path and GPUs.
fn settings(
    args: &QualifyArgs,
    scratch: &ScratchDirectory,
    notes: &mut Vec<String>,
    cancel: &Cancel,
) -> Result<(Settings, Estimate)> {
    let path = args.path.canonicalize().with_context(|| format!("resolve {}", args.path.display()))?;
    let source = Source::live(false);
    let (to, options) = open(args, &path, notes)?;
    let gpus = match &to {
        Destination::Host => Vec::new(),
        Destination::Gpus(gpus, _) => qualified(&source, gpus).context("--gpus")?,
    };
    let names: Vec<String> = gpus.iter().map(|gpu| gpu.name.clone()).collect();
    let fio = fio::program();
    let (gpu_links, groups) = between(&source, &gpus, &names);
    let shared: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let schedule = Schedule::new(args.duration, &names, &shared, fio.is_some())?;
    let free = Free::now(&path, &gpus)?;
    if let Some(size_bytes) = args.size {
        check_space(&path, size_bytes).context("name another --path or a smaller --size")?;
    }
    let size_bytes = free.size(args.size)?;
    let memory = gpus_gb_per_s(&source, &gpus);
    let speeds = probe(scratch, &options, memory, cancel)?;
    let fitting = shrunk(size_bytes, speeds.fitting_bytes(&schedule));
    let size_bytes = match args.size {
        None if fitting < size_bytes => {
            notes.push(format!(
                "the size is {} MiB, not {}: what fits into a duration of {} s here",
                fitting >> 20,
                size_bytes >> 20,
                args.duration.as_secs_f64()
            ));
            fitting
        }
        _ => size_bytes,
    };
    let estimate = Estimate::new(&schedule, &speeds, size_bytes);
    notes.iter().for_each(|note| print::tell(format_args!("note: {note}")));
    print::tell(format_args!("estimate: {}", estimate.in_words()));
    let drives = drives_below(&source, &path);
    print::tell("… checks of the path and the GPUs");
    let uuids: Vec<String> =
        gpus.iter().filter_map(|gpu| gpu.facts.as_ref()).map(|facts| facts.uuid.clone()).collect();
    let name = path.to_str().unwrap_or_default().to_string();
    let examined = doctor::examine(&source, &[name], Some(&uuids))?;
    let of_path = examined.paths.first();
    let settings = Settings {
        storage: of_path.map(|path| path.storage.clone()).unwrap_or_default(),
        gds: of_path.map(|path| path.verdict(examined.has_gpu)).unwrap_or_default(),
        checks: examined.findings.into_iter().map(|finding| finding.check).collect(),
        source,
        path,
        to,
        options,
        engine: args.engine.engine.name(),
        gpus,
        gpu_links,
        groups,
        without_gpus: args.gpus == Some(Gpus::None),
        size_bytes,
        schedule,
        fio,
        drives,
    };
    Ok((settings, estimate))
}

/// What lies between the GPUs, and those that share a root port.
fn between(source: &Source, gpus: &[QualifiedGpu], names: &[String]) -> (Option<GpuLinks>, Vec<Group>) {
    if gpus.len() < 2 {
        return (None, Vec::new());
    }
    let facts: Vec<GpuFacts> = gpus.iter().filter_map(|gpu| gpu.facts.clone()).collect();
    let indices: Vec<Option<u32>> =
        gpus.iter().map(|gpu| gpu.facts.as_ref().map(|facts| facts.index)).collect();
    let links = link_facts::links(source, &facts);
    let groups = groups(&links, names, &indices);
    (Some(links), groups)
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

/// What is to be said of the rule and the files once all is measured. `is_kept`: the earlier run's files stay.
fn last_notes(args: &QualifyArgs, run: &Run<'_>, rule: &Rule, is_kept: bool) -> Result<Vec<String>> {
    let mut notes: Vec<String> = match rule {
        Rule::Against(earlier, _) => {
            let duration_s = args.duration.as_secs_f64();
            let differences = earlier.differences(&run.model, run.settings.size_bytes, duration_s);
            differences.iter().map(in_words).collect()
        }
        Rule::Profile(_) => Vec::new(),
    };
    match is_kept {
        true => notes.push("nothing was measured yet: the files are those of the earlier run".into()),
        false => notes.extend(records::left(&args.results, &run.model, &run.seen.cold, &run.seen.warm)?),
    }
    Ok(notes)
}

fn in_words(difference: &SettingDifference) -> String {
    let name = match difference.setting {
        Setting::Model => "the model",
        Setting::Size => "--size",
        Setting::Duration => "--duration",
    };
    format!("{name} differs from the earlier run's: {}, not {}", difference.now, difference.then)
}

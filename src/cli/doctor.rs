//! `sllm-gds doctor`: can these file systems and GPUs do GPUDirect Storage, and is the path as fast as its parts?

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cli::Outcome;
use crate::cli::help;
use crate::cli::print;
use crate::cli::words::{Gpus, parse_gpus};
use crate::doctor;
use crate::doctor::report::Answer;
use crate::node::source::{Source, Unread};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directories or files whose file systems to examine [default: the current directory]
    pub paths: Vec<PathBuf>,
    /// Which GPUs to examine: none, all, or a list (0,1 or UUIDs)
    #[arg(long, value_parser = parse_gpus, default_value = "all", help_heading = help::WHERE)]
    pub gpus: Gpus,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
    /// List every check, also those that pass
    #[arg(long, help_heading = help::OUTPUT)]
    pub all: bool,
    /// Examine a machine that was recorded, not this one
    #[arg(long, value_name = "DIR", help_heading = help::WHERE)]
    pub root: Option<PathBuf>,
    /// Write all that is read to a new directory, for --root
    #[arg(long, value_name = "DIR", conflicts_with = "root", help_heading = help::OUTPUT)]
    pub record: Option<PathBuf>,
    /// Open cuFile's driver and say what came of it: doctor runs this in a child process
    #[arg(long, hide = true)]
    pub probe_cufile: bool,
}

pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    if args.probe_cufile {
        doctor::probe::answer(print::say_json);
        return Ok(Outcome::Yes);
    }
    // Before the checks, which take seconds.
    if let Some(dir) = args.record.as_ref().filter(|dir| dir.symlink_metadata().is_ok()) {
        bail!("{} is there already; --record wants the name of a new directory", dir.display());
    }
    let source = match &args.root {
        Some(root) if !root.is_dir() => {
            bail!("{} is not a directory; --root takes a recorded tree", root.display())
        }
        Some(root) => Source::recorded(root)?,
        None => Source::live(args.record.is_some()),
    };
    let paths = paths(args, &source)?;
    let gpus = match &args.gpus {
        Gpus::All => None,
        Gpus::None => Some(&[][..]),
        Gpus::List(names) => Some(names.as_slice()),
    };
    let report = doctor::examine(&source, &paths, gpus)?;
    match args.json {
        true => print::say_json(&report.json()?),
        false => print::say_page(&report.text(args.all)),
    }
    // After the report, which holds even where it can't be recorded.
    if let Some(dir) = &args.record {
        source.save(dir)?;
        print::tell(format_args!(
            "recorded to {}; read it with: sllm-gds doctor --root {}",
            dir.display(),
            dir.display()
        ));
    }
    Ok(if report.gds() == Answer::Yes { Outcome::Yes } else { Outcome::No })
}

/// Canonical paths: as given, or the current directory, or those of the recording.
fn paths(args: &DoctorArgs, source: &Source) -> Result<Vec<String>> {
    let given = &args.paths;
    if !source.is_live() {
        let paths = match given.is_empty() {
            true => recorded_paths(source)?,
            false => given.iter().map(|p| text(p)).collect::<Result<_>>()?,
        };
        if let Some(relative) = paths.iter().find(|p| !Path::new(p).is_absolute()) {
            bail!("{relative} is relative; with --root a path is absolute, as on that machine");
        }
        return Ok(paths);
    }
    let here = [PathBuf::from(".")];
    let given = if given.is_empty() { &here[..] } else { given };
    let canonical = |path: &PathBuf| {
        let found = path.canonicalize().with_context(|| {
            format!("look at {}; name a directory or file of the file system to examine", path.display())
        })?;
        text(&found)
    };
    let paths: Vec<String> = given.iter().map(canonical).collect::<Result<_>>()?;
    let _ = source.fact("paths", || Ok(paths.clone()));
    Ok(paths)
}

/// At least one.
fn recorded_paths(source: &Source) -> Result<Vec<String>> {
    let why = match source.fact::<Vec<String>>("paths", || Err(Unread::Missing)) {
        Ok(paths) if !paths.is_empty() => return Ok(paths),
        Ok(_) => "it names none".to_string(),
        Err(why) => why.to_string(),
    };
    bail!("the recording does not say which paths it is about (sllm-gds/paths.json: {why}); name one")
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_string).with_context(|| format!("{} is not UTF-8", path.display()))
}

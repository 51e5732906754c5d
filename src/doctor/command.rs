//! `sllm-gds doctor`: can these file systems and GPUs do GPUDirect Storage, and is the path as fast as its parts?
//!
//! Checks read a [`source`]: this machine, or a recording of another. Each is a [`crate::doctor::ways::Finding`]: a [`check`] and
//! which of the two ways (nvidia-fs, P2PDMA) needs it. A way is open when all that it needs is known and met.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::cli::{DoctorArgs, Gpus};
use crate::doctor::check::{Check, Status};
use crate::doctor::mount::Mount;
use crate::doctor::report::{Answer, PathReport, Report};
use crate::doctor::storage::Stack;
use crate::doctor::ways::{Finding, Need, Ways};
use crate::node::block::Drive;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};
use crate::os::text;

pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    if args.probe_cufile {
        crate::doctor::probe::answer();
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
    let report = examine(&source, &paths, &args.gpus)?;
    match args.json {
        true => text::say_json(&report.json()?),
        false => text::say_page(&report.text(args.all)),
    }
    // After the report, which holds even where it can't be recorded.
    if let Some(dir) = &args.record {
        source.save(dir)?;
        text::tell(format_args!(
            "recorded to {}; read it with: sllm-gds doctor --root {}",
            dir.display(),
            dir.display()
        ));
    }
    Ok(if report.gds() == Answer::Yes { Outcome::Yes } else { Outcome::No })
}

/// What may carry GDS for the file system of `path` (in a recording: absolute and free of links). Reads some thirty
/// small files, opens no driver and no library: cheap enough before every load. That libcufile is there and new
/// enough shows when it is loaded.
pub fn gds_ways(source: &Source, path: &Path) -> Ways {
    let canonical = source.is_live().then(|| path.canonicalize().ok()).flatten();
    let driver = crate::doctor::nvidia::Driver::read(source);
    let mut findings = crate::doctor::nvidia::findings(source, &driver);
    findings.extend(of_path(source, canonical.as_deref().unwrap_or(path)).0);
    findings.extend(software(source, &driver));
    findings.extend(crate::doctor::libcufile::configuration(source));
    Ways::of(&findings.iter().collect::<Vec<_>>())
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

/// All checks of these paths (absolute, free of links) and GPUs (as NVML names them).
pub fn examine(source: &Source, paths: &[String], gpus: &Gpus) -> Result<Report> {
    // In the order in which they matter: GPUs, then the path, then the software between. The verdict names the first.
    let driver = crate::doctor::nvidia::Driver::read(source);
    let base = crate::doctor::nvidia::findings(source, &driver);
    let mut software = software(source, &driver);
    software.extend(crate::doctor::libcufile::findings(source));
    let mut of_paths = Vec::new();
    let mut reports = Vec::new();
    let mut drives: Vec<Drive> = Vec::new();
    for path in paths {
        let (mut findings, storage, below) = of_path(source, Path::new(path));
        findings.extend(crate::doctor::direct::findings(source, path));
        let all: Vec<&Finding> = base.iter().chain(&findings).chain(&software).collect();
        let report = PathReport::new(path, storage, &all);
        if let Some(open) = report.by {
            findings.iter_mut().for_each(|f| crate::doctor::ways::excuse(f, open));
        }
        reports.push(report);
        of_paths.extend(findings);
        drives.extend(below);
    }
    let mut ways = reports.iter().map(|r| r.by);
    if let Some(Some(open)) = ways.next()
        && ways.all(|way| way == Some(open))
    {
        // What the machine lacks is excused where no path needs it.
        software.iter_mut().for_each(|f| crate::doctor::ways::excuse(f, open));
    }
    let mut findings = base;
    findings.extend(of_paths);
    findings.extend(software);
    findings.extend(hardware_findings(source, gpus, drives)?);
    // Two paths may share a file system.
    let mut unique: Vec<Finding> = Vec::new();
    findings.into_iter().for_each(|f| {
        if !unique.contains(&f) {
            unique.push(f)
        }
    });
    let has_gpu = match driver {
        Ok(_) => Some(true),
        Err(Unread::Missing) => Some(false),
        Err(_) => None,
    };
    Ok(Report { has_gpu, paths: reports, findings: unique })
}

/// Speed and health: none of it decides whether GDS is possible.
fn hardware_findings(source: &Source, gpus: &Gpus, mut drives: Vec<Drive>) -> Result<Vec<Finding>> {
    drives.sort_by(|a, b| a.name.cmp(&b.name));
    drives.dedup();
    let mut checks = Vec::new();
    let gpus = match crate::node::nvml::gpus(source) {
        Ok(all) => chosen(all, gpus)?,
        Err(why) => {
            let check = Check::new("gpu.nvml", "this machine", Status::Unknown, why.to_string(), "NVML");
            checks.push(check.why("what the GPUs say of themselves can't be read"));
            Vec::new()
        }
    };
    checks.extend(crate::doctor::hardware::checks(source, &gpus));
    checks.extend(crate::doctor::hardware::drives(source, &drives));
    checks.extend(crate::doctor::hardware::pairs(source, &gpus, &drives));
    Ok(checks.into_iter().map(|check| Finding::new(Need::Neither, check)).collect())
}

/// Those that `--gpus` names, by NVML's index or UUID.
fn chosen(all: Vec<GpuFacts>, gpus: &Gpus) -> Result<Vec<GpuFacts>> {
    let names = match gpus {
        Gpus::All => return Ok(all),
        Gpus::None => return Ok(Vec::new()),
        Gpus::List(names) => names,
    };
    let is = |gpu: &GpuFacts, name: &String| gpu.uuid == *name || gpu.index.to_string() == *name;
    if let Some(missing) = names.iter().find(|name| !all.iter().any(|gpu| is(gpu, name))) {
        bail!("there is no GPU {missing} here; nvidia-smi -L lists what there is");
    }
    Ok(all.into_iter().filter(|gpu| names.iter().any(|name| is(gpu, name))).collect())
}

fn software(source: &Source, driver: &Result<crate::doctor::nvidia::Driver, Unread>) -> Vec<Finding> {
    let mut findings = crate::doctor::nvidia::nvidia_fs(source);
    findings.extend(crate::doctor::p2pdma::findings(source, driver));
    findings
}

/// The findings about one path, its storage in words, and its drives.
pub fn of_path(source: &Source, path: &Path) -> (Vec<Finding>, String, Vec<Drive>) {
    let name = path.display().to_string();
    let mount = match Mount::of(source, path) {
        Ok(mount) => mount,
        Err(why) => {
            let check = Check::new("fs.type", name, Status::Unknown, why.to_string(), "/proc/self/mountinfo")
                .why("which file system holds the path can't be read")
                .remedy("mount /proc where doctor runs");
            return (vec![Finding::new(Need::Both, check)], "not known".into(), Vec::new());
        }
    };
    let stack = Stack::below(source, &mount);
    let mut findings = crate::doctor::mount::findings(source, &name, &mount);
    findings.extend(crate::doctor::storage::findings(source, &name, &mount, &stack));
    let hooked =
        crate::doctor::mount::network_driver(&mount.fs_type).unwrap_or_else(|| stack.nvidia_fs_driver());
    findings.extend(crate::doctor::nvidia::serves(source, &name, hooked));
    let below = stack.describe();
    let on = if below.is_empty() { mount.device.clone() } else { below };
    (findings, format!("{} on {on}", mount.fs_type), stack.drives(source))
}

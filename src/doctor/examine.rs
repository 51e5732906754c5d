//! All checks of some paths and GPUs, in the order in which they matter.
//!
//! Checks read a [`Source`]: this machine, or a recording of another. Each is a [`Finding`]: a check, and, where GDS
//! needs what it is about, which of the two ways (nvidia-fs, P2PDMA) does. A way is open when all that it needs is known
//! and met.

use std::path::Path;

use anyhow::{Result, bail};

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::finding::{Finding, excuse};
use crate::doctor::report::{PathReport, Report};
use crate::doctor::{direct, hardware, libcufile, nvidia_fs, storage};
use crate::gpu::link_facts;
use crate::load::gds::ways;
use crate::load::gds::ways::Assessment;
use crate::node::block::Drive;
use crate::node::gpu_links::GpuLinks;
use crate::node::nvidia::Driver;
use crate::node::nvml;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};

/// All checks of these paths (absolute, free of links) and of the GPUs with these indices or UUIDs, as NVML has them;
/// `None` is all that there are.
pub fn examine(source: &Source, paths: &[String], gpus: Option<&[String]>) -> Result<Report> {
    // In the order in which they matter: GPUs, then the path, then the software between. The verdict names the first.
    let driver = Driver::read(source);
    let base = of(ways::driver(source, &driver));
    let mut software = software(source, &driver);
    let mut of_paths = Vec::new();
    let mut reports = Vec::new();
    let mut drives: Vec<Drive> = Vec::new();
    for path in paths {
        let (mut findings, storage, below) = of_path(source, path);
        findings.extend(direct::findings(source, path));
        let all: Vec<&Assessment> =
            base.iter().chain(&findings).chain(&software).filter_map(|f| f.assessed.as_ref()).collect();
        let report = PathReport::new(path, storage, &all);
        if let Some(open) = report.by {
            findings.iter_mut().for_each(|f| excuse(f, open));
        }
        reports.push(report);
        of_paths.extend(findings);
        drives.extend(below);
    }
    let mut open_ways = reports.iter().map(|r| r.by);
    if let Some(Some(open)) = open_ways.next()
        && open_ways.all(|way| way == Some(open))
    {
        // What the machine lacks is excused where no path needs it.
        software.iter_mut().for_each(|f| excuse(f, open));
    }
    let mut findings = base;
    findings.extend(of_paths);
    findings.extend(software);
    let (hardware, gpu_links) = hardware_checks(source, gpus, drives)?;
    findings.extend(hardware.into_iter().map(Finding::beside));
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
    Ok(Report { has_gpu, paths: reports, findings: unique, gpu_links })
}

fn of(assessments: Vec<Assessment>) -> Vec<Finding> {
    assessments.into_iter().map(Finding::of).collect()
}

/// What lies between GPUs and paths.
fn software(source: &Source, driver: &Result<Driver, Unread>) -> Vec<Finding> {
    let nvidia_fs = ways::nvidia_fs(source);
    let is_loaded = nvidia_fs::is_loaded(&nvidia_fs);
    let mut findings = of(nvidia_fs);
    if is_loaded {
        findings.extend(nvidia_fs::checks(source).into_iter().map(Finding::beside));
    }
    findings.extend(of(ways::p2pdma(source, driver)));
    findings.extend(libcufile::findings(source));
    findings
}

/// The findings about one path, its storage in words, and its drives.
fn of_path(source: &Source, path: &str) -> (Vec<Finding>, String, Vec<Drive>) {
    let below = ways::below(source, Path::new(path));
    let mut findings = of(ways::of_path(source, Path::new(path), below.as_ref()));
    let Ok(below) = below else { return (findings, "not known".into(), Vec::new()) };
    findings.extend(storage::checks(source, &below).into_iter().map(Finding::beside));
    let stack = below.stack.describe();
    let on = if stack.is_empty() { &below.mount.device } else { &stack };
    (findings, format!("{} on {on}", below.mount.fs_type), below.stack.drives(source))
}

/// Speed and health: none of it decides whether GDS is possible. And what lies between GPUs, where there are several.
fn hardware_checks(
    source: &Source,
    gpus: Option<&[String]>,
    mut drives: Vec<Drive>,
) -> Result<(Vec<Check>, Option<GpuLinks>)> {
    drives.sort_by(|a, b| a.name.cmp(&b.name));
    drives.dedup();
    let mut checks = Vec::new();
    let gpus = match nvml::gpus(source) {
        Ok(all) => chosen(all, gpus)?,
        Err(why) => {
            let check = Check::new(CheckId::Nvml, "this machine", Status::Unknown, why.to_string(), "NVML");
            checks.push(check.why("what the GPUs say of themselves can't be read"));
            Vec::new()
        }
    };
    checks.extend(hardware::checks(source, &gpus));
    checks.extend(hardware::drives(source, &drives));
    checks.extend(hardware::pairs(source, &gpus, &drives));
    let links = (gpus.len() > 1).then(|| link_facts::links(source, &gpus));
    Ok((checks, links))
}

/// Those of these indices or UUIDs.
fn chosen(all: Vec<GpuFacts>, names: Option<&[String]>) -> Result<Vec<GpuFacts>> {
    let Some(names) = names else { return Ok(all) };
    let is = |gpu: &GpuFacts, name: &String| gpu.uuid == *name || gpu.index.to_string() == *name;
    if let Some(missing) = names.iter().find(|name| !all.iter().any(|gpu| is(gpu, name))) {
        bail!("there is no GPU {missing} here; nvidia-smi -L lists what there is");
    }
    Ok(all.into_iter().filter(|gpu| names.iter().any(|name| is(gpu, name))).collect())
}

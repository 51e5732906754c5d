//! The loader: a plan in, bytes in place and a report out.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::gpu::scatter::Targets;
use crate::load::digesting::Digesting;
use crate::load::engine::{Engine, Job};
use crate::load::gds::load::Attempt;
use crate::load::jobs::{Landing, in_place, scattered, targets, to_devices, to_unpack};
use crate::load::links;
use crate::load::loaded::{Destination, Loaded};
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::pinned::Ring;
use crate::load::plan::Plan;
use crate::load::prepare::poison_all;
use crate::load::report::{Clock, LoadReport};
use crate::load::rings::Rings;
use crate::load::shared::Shared;
use crate::load::source::Storage;
use crate::load::task::Task;
use crate::load::transfer::{JobSource, transfer_from, transfer_telling};
use crate::load::unpacking::Unpacking;
use crate::load::{fault, gds, host, pinned, source};
use crate::os::cancel::Cancel;

/// Opens the checkpoint at `path` and loads it, both on the clock.
pub fn load(
    path: &Path,
    to: &Destination,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let open = || {
        let checkpoint = Checkpoint::open_below(path, options.storage_path.as_deref())?.whole()?;
        Ok(Arc::new(checkpoint))
    };
    let task = Task::whole(&open, to);
    load_task(&task, options, &Rings::default(), cancel).with_context(|| format!("load {}", path.display()))
}

/// Makes a load, with a ring that was kept where one fits.
pub(super) fn load_task(
    task: &Task<'_>,
    options: &Options,
    rings: &Rings,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let (loaded, mut report) = match task.lanes.is_empty() {
        true => load_to_host(task, options, cancel)?,
        false => load_to_gpus(task, options, rings, cancel)?,
    };
    task.count_plan(&mut report, &loaded.plan);
    Ok((loaded, report))
}

/// By cuFile where that was chosen and holds what it promised, else through the ring.
pub(super) fn load_to_gpus(
    task: &Task<'_>,
    options: &Options,
    rings: &Rings,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let (why_not, lost_s) = match &options.gds {
        Ok(gds) => {
            task.wait_for_caller()?;
            match gds::load::load(task, options, gds, cancel)? {
                Attempt::Loaded(done) => return Ok(*done),
                Attempt::Refused { why, lost_s } => (Some(format!("no GDS: {why}")), lost_s),
            }
        }
        Err(why) => (why.clone(), 0.0),
    };
    let carriers = links::carriers(&task.lanes, &options.links, &options.helpers)?;
    let options = &options.by_ring().over_links(carriers.links());
    let ring = rings.take(&carriers.all, options);
    let (loaded, mut report) = load_by_ring(task, options, &ring, cancel)?;
    // After a failure it is dropped instead: what went wrong may lie in it.
    rings.keep(ring);
    report.add_lost(lost_s);
    for why in [why_not, carriers.why_not].into_iter().flatten() {
        report.path_reason.push_str(&format!("; {why}"));
    }
    Ok((loaded, report))
}

fn load_to_host(task: &Task<'_>, options: &Options, cancel: &Cancel) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let checkpoint = (task.open)()?;
    let sources = source::Sources::open(&checkpoint, options.io)?;
    phases.open_s = clock.lap();
    let plan = task.plan(&checkpoint)?;
    phases.plan_s = clock.lap();
    let mut buffers = task.memory(&plan)?;
    phases.allocate_s = clock.lap();
    let faulty =
        options.asked.faults.as_ref().and_then(|faults| fault::wrap(faults, &checkpoint.dir, &sources));
    let storage: &dyn Storage = faulty.as_ref().map_or(&sources, |faulty| faulty);
    let unpacking = Unpacking::new(storage, &checkpoint);
    let storage: &dyn Storage = unpacking.as_ref().map_or(storage, |unpacking| unpacking);
    let digesting = task.digest.then(|| Digesting::new(storage, &checkpoint));
    let storage: &dyn Storage = digesting.as_ref().map_or(storage, |digesting| digesting);
    let (files, threads, meter) = (&checkpoint.files, options.threads, task.meter(plan.bytes()));
    let page_ins = host::PageIns::default();
    let (taken, ran) = match task.is_in_place() {
        true => {
            let engine = host::HostEngine::new(storage, &page_ins);
            let jobs = in_place(&plan, &mut buffers, options.chunk_bytes);
            let ran = transfer_telling(files, jobs, &engine, threads, cancel, &meter)?;
            (engine.outcome(), ran)
        }
        false => {
            let own = task.owns_memory().then_some(&page_ins);
            let engine = host::ScatterEngine::new(storage, options.chunk_bytes, own);
            let jobs = scattered(&plan, &mut buffers, options.chunk_bytes);
            let ran = transfer_telling(files, jobs, &engine, threads, cancel, &meter)?;
            (engine.outcome(), ran)
        }
    };
    let read = digesting.map(Digesting::finish);
    sources.check_unchanged(&checkpoint)?;
    let moved_s = clock.lap();
    let page_ins_s = moved_s * page_ins.share();
    phases.allocate_s += page_ins_s;
    phases.transfer_s = moved_s - page_ins_s;
    let mut report = LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), taken);
    report.threads = ran;
    Ok((Loaded { read, ..task.loaded(checkpoint, plan, buffers) }, report))
}

/// A new ring is pinned while the index is parsed, device memory allocated, and the first chunks read; `register_s` is the
/// wait for its first slots.
fn load_by_ring(
    task: &Task<'_>,
    options: &Options,
    ring: &Ring,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    std::thread::scope(|scope| -> Result<_> {
        // The clock stands still for poisoning, and so must everything that it counts.
        let hold = options.poison.then(|| ring.hold());
        if !ring.is_filled() {
            ring.fill(scope)?;
        }
        let checkpoint = (task.open)()?;
        let sources = source::Sources::open(&checkpoint, options.io)?;
        phases.open_s = clock.lap();
        let plan = task.plan(&checkpoint)?;
        phases.plan_s = clock.lap();
        let mut buffers = task.memory(&plan)?;
        phases.allocate_s = clock.lap();
        ring.wait_for_first()?;
        task.after.iter().try_for_each(|event| ring.wait_for(event))?;
        phases.register_s = clock.lap();
        poison_all(&mut buffers, options, &mut clock)?;
        drop(hold);
        let faulty =
            options.asked.faults.as_ref().and_then(|faults| fault::wrap(faults, &checkpoint.dir, &sources));
        let storage: &dyn Storage = faulty.as_ref().map_or(&sources, |faulty| faulty);
        let targets = Arc::new(targets(&plan, &mut buffers));
        let there = unpacked_there(&checkpoint, &plan, &targets, ring, options);
        let unpacking = Unpacking::new(storage, &checkpoint).filter(|_| there.is_none());
        let storage: &dyn Storage = unpacking.as_ref().map_or(storage, |unpacking| unpacking);
        let digesting = task.digest.then(|| Digesting::new(storage, &checkpoint));
        let storage: &dyn Storage = digesting.as_ref().map_or(storage, |digesting| digesting);
        let engine = pinned::PinnedEngine::new(storage, ring);
        let how = if there.is_some() { "; unpacked on the GPU" } else { "" };
        let jobs = there.unwrap_or_else(|| to_devices(&plan, targets, options.copy_bytes));
        let meter = task.meter(jobs.iter().flatten().map(|job| job.bytes).sum());
        let ran = {
            let copies = Shared::new(jobs);
            let links = ring.share(&copies);
            let links: Vec<&dyn JobSource<_>> = links.iter().map(|link| link as _).collect();
            transfer_from(&checkpoint.files, &links, &engine, options.threads, cancel, &meter)?
        };
        let mut taken = engine.outcome();
        taken.reason.push_str(how);
        let read = digesting.map(Digesting::finish);
        sources.check_unchanged(&checkpoint)?;
        phases.transfer_s = clock.lap();
        let mut report = LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), taken);
        (report.copy_bytes, report.staging_bytes) = (options.copy_bytes, ring.bytes());
        report.threads = ran;
        report.links = ring.take_reports(phases.transfer_s)?;
        Ok((Loaded { read, ..task.loaded(checkpoint, plan, buffers) }, report))
    })
}

/// Copies of packed bytes, to be unpacked on the GPUs; `None` where the CPU unpacks them: they are for places that the kernel
/// can't write to, or a link passes bytes on.
fn unpacked_there<'a>(
    checkpoint: &Checkpoint,
    plan: &Plan,
    targets: &Arc<Targets<'a>>,
    ring: &Ring,
    options: &Options,
) -> Option<Vec<Vec<Job<Landing<'a>>>>> {
    if checkpoint.packed.is_none() || ring.passes_on() {
        return None;
    }
    to_unpack(plan, checkpoint, targets, options.copy_bytes)
}

//! The loader: a plan in, bytes in place and a report out.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::load::engine::Engine;
use crate::load::jobs::{in_place, targets, to_devices};
use crate::load::loaded::{Buffer, Destination, Loaded, Placement};
use crate::load::options::Options;
use crate::load::plan::{Plan, Spacing};
use crate::load::prepare::{allocate, gpus_of_lanes, poison_all};
use crate::load::report::{Clock, LoadReport, Phases};
use crate::load::transfer::transfer;
use crate::load::{gds, host, pinned, source};
use crate::os::cancel::Cancel;
use crate::os::memory::HostBuffer;

/// Loads a checkpoint.
pub fn load(
    path: &Path,
    to: &Destination,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    match to {
        Destination::Host => load_to_host(path, options, cancel),
        Destination::Gpus(gpus, placement) => load_to_gpus(path, gpus, *placement, options, cancel),
    }
    .with_context(|| format!("load {}", path.display()))
}

/// By cuFile where that was chosen and holds what it promised, else through the ring.
pub(crate) fn load_to_gpus(
    path: &Path,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let why_not = match &options.gds {
        Ok(gds) => match gds::load::load(path, gpus, placement, options, gds, cancel)? {
            gds::load::Came::Loaded(done) => return Ok(*done),
            gds::load::Came::NotDirect(why) => Some(format!("no GDS: {why}")),
        },
        Err(why) => why.clone(),
    };
    let (loaded, mut report) = load_by_ring(path, gpus, placement, options, cancel)?;
    if let Some(why) = why_not {
        report.path_reason.push_str(&format!("; {why}"));
    }
    Ok((loaded, report))
}

fn load_to_host(path: &Path, options: &Options, cancel: &Cancel) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let checkpoint = Checkpoint::open_below(path, options.storage_path.as_deref())?.whole()?;
    let sources = source::Sources::open(&checkpoint, options.io)?;
    let engine = host::HostEngine::new(&sources);
    phases.open_s = clock.lap();
    let plan = Plan::new(&checkpoint, 1, Spacing::AsInFile)?;
    phases.plan_s = clock.lap();
    let allocate = |bytes: &u64| HostBuffer::new(*bytes).map(Buffer::Host);
    let mut buffers = plan.destination_bytes.iter().map(allocate).collect::<Result<Vec<_>>>()?;
    phases.allocate_s = clock.lap();
    transfer(
        &checkpoint.files,
        in_place(&plan, &mut buffers, options.chunk_bytes),
        &engine,
        options.threads,
        cancel,
    )?;
    sources.check_unchanged(&checkpoint)?;
    phases.transfer_s = clock.lap();
    let report = LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), engine.outcome());
    Ok((Loaded { checkpoint, plan, buffers }, report))
}

/// The ring is pinned while the index is parsed, device memory allocated, and the first chunks read;
/// `register_s` is the wait for its first slots.
fn load_by_ring(
    path: &Path,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let gpus_of_lane = gpus_of_lanes(gpus, placement);
    let ring = pinned::Ring::new(gpus_of_lane.clone(), options);
    std::thread::scope(|scope| -> Result<_> {
        // The clock stands still for poisoning, and so must everything that it counts.
        let hold = options.poison.then(|| ring.hold());
        scope.spawn(|| ring.fill());
        let checkpoint = Checkpoint::open_below(path, options.storage_path.as_deref())?.whole()?;
        let sources = source::Sources::open(&checkpoint, options.io)?;
        phases.open_s = clock.lap();
        let plan = Plan::new(&checkpoint, gpus_of_lane.len(), Spacing::Aligned)?;
        phases.plan_s = clock.lap();
        let mut buffers = allocate(&plan, &gpus_of_lane)?;
        phases.allocate_s = clock.lap();
        ring.wait_for_first()?;
        phases.register_s = clock.lap();
        poison_all(&mut buffers, options, &mut clock)?;
        drop(hold);
        let engine = pinned::PinnedEngine::new(&sources, &ring);
        let jobs = to_devices(&plan, targets(&plan, &mut buffers), options.copy_bytes);
        let jobs = pinned::in_parts(&ring, jobs);
        transfer(&checkpoint.files, jobs, &engine, options.threads, cancel)?;
        sources.check_unchanged(&checkpoint)?;
        phases.transfer_s = clock.lap();
        let mut report =
            LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), engine.outcome());
        (report.copy_bytes, report.staging_bytes) = (options.copy_bytes, ring.bytes());
        Ok((Loaded { checkpoint, plan, buffers }, report))
    })
}

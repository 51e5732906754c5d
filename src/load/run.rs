//! The loader: a plan in, bytes in place and a report out.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::load::engine::Engine;
use crate::load::gds::load::Attempt;
use crate::load::jobs::{in_place, targets, to_devices};
use crate::load::loaded::{Buffer, Destination, Loaded, Placement};
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::pinned::Ring;
use crate::load::plan::{Plan, Spacing};
use crate::load::prepare::{Open, allocate, gpus_of_lanes, poison_all};
use crate::load::report::{Clock, LoadReport};
use crate::load::rings::Rings;
use crate::load::transfer::transfer;
use crate::load::{gds, host, pinned, source};
use crate::node;
use crate::os::cancel::Cancel;
use crate::os::memory::HostBuffer;

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
    load_opened(&open, to, options, &Rings::default(), cancel)
        .with_context(|| format!("load {}", path.display()))
}

/// Loads a checkpoint, with a ring that was kept where one fits.
pub(super) fn load_opened(
    checkpoint: &Open<'_>,
    to: &Destination,
    options: &Options,
    rings: &Rings,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    match to {
        Destination::Host => load_to_host(checkpoint, options, cancel),
        Destination::Gpus(gpus, placement) => {
            load_to_gpus(checkpoint, gpus, *placement, options, rings, cancel)
        }
    }
}

/// By cuFile where that was chosen and holds what it promised, else through the ring.
pub(super) fn load_to_gpus(
    checkpoint: &Open<'_>,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    rings: &Rings,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let (why_not, lost_s) = match &options.gds {
        Ok(gds) => match gds::load::load(checkpoint, gpus, placement, options, gds, cancel)? {
            Attempt::Loaded(done) => return Ok(*done),
            Attempt::Refused { why, lost_s } => (Some(format!("no GDS: {why}")), lost_s),
        },
        Err(why) => (why.clone(), 0.0),
    };
    let options = &options.by_ring();
    let lanes = gpus_of_lanes(gpus, placement);
    let ring = rings.take(&lanes, options);
    let (loaded, mut report) = load_by_ring(checkpoint, &lanes, options, &ring, cancel)?;
    // After a failure it is dropped instead: what went wrong may lie in it.
    rings.keep(ring);
    report.add_lost(lost_s);
    if let Some(why) = why_not {
        report.path_reason.push_str(&format!("; {why}"));
    }
    Ok((loaded, report))
}

fn load_to_host(checkpoint: &Open<'_>, options: &Options, cancel: &Cancel) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let checkpoint = checkpoint()?;
    let sources = source::Sources::open(&checkpoint, options.io)?;
    let engine = host::HostEngine::new(&sources);
    phases.open_s = clock.lap();
    let plan = Plan::new(&checkpoint, 1, Spacing::AsInFile)?;
    phases.plan_s = clock.lap();
    node::memory::check(plan.destination_bytes.iter().sum())?;
    let allocate = |bytes: &u64| HostBuffer::new(*bytes).map(Buffer::Host);
    let mut buffers = plan.destination_bytes.iter().map(allocate).collect::<Result<Vec<_>>>()?;
    phases.allocate_s = clock.lap();
    let jobs = in_place(&plan, &mut buffers, options.chunk_bytes);
    transfer(&checkpoint.files, jobs, &engine, options.threads, cancel)?;
    sources.check_unchanged(&checkpoint)?;
    phases.transfer_s = clock.lap();
    let report = LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), engine.outcome());
    Ok((Loaded { checkpoint, plan, buffers }, report))
}

/// A new ring is pinned while the index is parsed, device memory allocated, and the first chunks read; `register_s` is the
/// wait for its first slots.
fn load_by_ring(
    checkpoint: &Open<'_>,
    lanes: &[Vec<Arc<Gpu>>],
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
            scope.spawn(|| ring.fill());
        }
        let checkpoint = checkpoint()?;
        let sources = source::Sources::open(&checkpoint, options.io)?;
        phases.open_s = clock.lap();
        let plan = Plan::new(&checkpoint, lanes.len(), Spacing::Aligned)?;
        phases.plan_s = clock.lap();
        let mut buffers = allocate(&plan, lanes)?;
        phases.allocate_s = clock.lap();
        ring.wait_for_first()?;
        phases.register_s = clock.lap();
        poison_all(&mut buffers, options, &mut clock)?;
        drop(hold);
        let engine = pinned::PinnedEngine::new(&sources, ring);
        let jobs = to_devices(&plan, targets(&plan, &mut buffers), options.copy_bytes);
        let jobs = pinned::in_parts(ring, jobs);
        transfer(&checkpoint.files, jobs, &engine, options.threads, cancel)?;
        sources.check_unchanged(&checkpoint)?;
        phases.transfer_s = clock.lap();
        let mut report =
            LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), engine.outcome());
        (report.copy_bytes, report.staging_bytes) = (options.copy_bytes, ring.bytes());
        Ok((Loaded { checkpoint, plan, buffers }, report))
    })
}

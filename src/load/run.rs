//! The loader: a plan in, bytes in place and a report out.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{Gpu, kernels};
use crate::load::engine::{Engine, PathTaken};
pub use crate::load::options::Options;
pub(crate) use crate::load::options::default_threads;
use crate::load::phases::Phases;
use crate::load::plan::Plan;
pub use crate::load::transfer::{lanes, transfer};
use crate::os::cancel::Cancel;
use crate::os::memory::HostBuffer;

/// Where to load to.
#[derive(Clone)]
pub enum Destination {
    Host,
    /// One destination each; the same GPU may stand twice.
    Gpus(Vec<Arc<Gpu>>, Placement),
}

/// How several GPUs share a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Placement {
    /// Group by group where it was saved with as many, else cut by bytes at module boundaries
    Balanced,
    /// Everything to each: read once, copied to all
    Replicate,
}

impl Destination {
    /// `["host"]`, or the GPUs as the user named them.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Destination::Host => vec!["host".into()],
            Destination::Gpus(gpus, _) => gpus.iter().map(|g| g.label.clone()).collect(),
        }
    }
}

/// Memory of one destination.
pub enum Buffer {
    Host(HostBuffer),
    Device(DeviceBuffer),
}

impl Buffer {
    /// Its host memory, if it is that.
    pub fn host(&self) -> Option<&HostBuffer> {
        match self {
            Buffer::Host(host) => Some(host),
            Buffer::Device(_) => None,
        }
    }

    /// As [`Buffer::host`].
    pub fn host_mut(&mut self) -> Option<&mut HostBuffer> {
        match self {
            Buffer::Host(host) => Some(host),
            Buffer::Device(_) => None,
        }
    }
}

/// A checkpoint in memory. Tensors are views: name, type, shape from the checkpoint, place from the plan.
pub struct Loaded {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    /// One for each destination of the plan; of a replicated load, one for each GPU, all alike.
    pub buffers: Vec<Buffer>,
}

/// A loaded tensor: where it lies, and what it is.
pub struct View<'a> {
    pub tensor: &'a Tensor,
    pub buffer: &'a Buffer,
    /// From the buffer's first byte.
    pub offset: u64,
}

impl<'a> View<'a> {
    /// Its address on the device, or `None` in host memory.
    pub fn device_address(&self) -> Option<u64> {
        match self.buffer {
            Buffer::Host(_) => None,
            Buffer::Device(device) => Some(device.address() + self.offset),
        }
    }

    /// Its bytes, or `None` on a device.
    pub fn host_bytes(&self) -> Option<&'a [u8]> {
        match self.buffer {
            Buffer::Host(host) => {
                Some(&host.as_slice()[self.offset as usize..][..self.tensor.bytes as usize])
            }
            Buffer::Device(_) => None,
        }
    }
}

impl Loaded {
    /// Whether each buffer holds the whole checkpoint.
    pub fn is_replicated(&self) -> bool {
        self.plan.destination_bytes.len() < self.buffers.len()
    }

    /// Tensor `index` of the checkpoint; of a replicated load, in `copy`.
    pub fn view(&self, index: usize, copy: usize) -> View<'_> {
        let place = self.plan.places[index];
        let buffer = if self.is_replicated() { copy } else { place.destination };
        View { tensor: &self.checkpoint.tensors[index], buffer: &self.buffers[buffer], offset: place.offset }
    }
}

/// What a load did.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Bytes of tensors delivered, and bytes read for them.
    pub bytes: u64,
    pub read_bytes: u64,
    /// From the call to the last byte in place.
    pub elapsed_s: f64,
    pub gb_per_s: f64,
    pub phases: Phases,
    /// The path that the bytes took, and why.
    pub path: String,
    pub path_reason: String,
    pub direct_bytes: u64,
    pub buffered_bytes: u64,
    pub chunk_bytes: u64,
    /// Bytes of one copy through the ring; 0 for other loads.
    pub copy_bytes: u64,
    /// Reader threads of each destination.
    pub threads: usize,
    /// Pinned host memory that the ring took; 0 for host loads.
    pub staging_bytes: u64,
}

impl LoadReport {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        plan: &Plan,
        options: &Options,
        phases: Phases,
        elapsed_s: f64,
        taken: PathTaken,
    ) -> LoadReport {
        let bytes = checkpoint.tensor_bytes();
        LoadReport {
            bytes,
            read_bytes: plan.bytes(),
            elapsed_s,
            gb_per_s: bytes as f64 / elapsed_s / 1e9,
            phases,
            path: taken.path,
            path_reason: taken.reason,
            direct_bytes: taken.direct_bytes,
            buffered_bytes: taken.buffered_bytes,
            chunk_bytes: options.chunk_bytes,
            copy_bytes: 0,
            threads: options.threads,
            staging_bytes: 0,
        }
    }
}

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
        Ok(gds) => match crate::load::gds::load::load(path, gpus, placement, options, gds, cancel)? {
            crate::load::gds::load::Came::Loaded(done) => return Ok(*done),
            crate::load::gds::load::Came::NotDirect(why) => Some(format!("no GDS: {why}")),
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
    let sources = crate::load::source::Sources::open(&checkpoint, options.io)?;
    let engine = crate::load::host::HostEngine::new(&sources);
    phases.open_s = clock.lap();
    let plan = Plan::new(&checkpoint, 1)?;
    phases.plan_s = clock.lap();
    let allocate = |bytes: &u64| HostBuffer::new(*bytes).map(Buffer::Host);
    let mut buffers = plan.destination_bytes.iter().map(allocate).collect::<Result<Vec<_>>>()?;
    phases.allocate_s = clock.lap();
    transfer(
        &checkpoint.files,
        lanes(&plan, &mut buffers, options.chunk_bytes),
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
    let ring = crate::load::pinned::Ring::new(gpus_of_lane.clone(), options);
    std::thread::scope(|scope| -> Result<_> {
        // The clock stands still for poisoning, and so must everything that it counts.
        let hold = options.poison.then(|| ring.hold());
        scope.spawn(|| ring.fill());
        let checkpoint = Checkpoint::open_below(path, options.storage_path.as_deref())?.whole()?;
        let sources = crate::load::source::Sources::open(&checkpoint, options.io)?;
        phases.open_s = clock.lap();
        let plan = Plan::new(&checkpoint, gpus_of_lane.len())?;
        phases.plan_s = clock.lap();
        let mut buffers = allocate(&plan, &gpus_of_lane)?;
        phases.allocate_s = clock.lap();
        ring.wait_for_first()?;
        phases.register_s = clock.lap();
        poison_all(&mut buffers, options, &mut clock)?;
        drop(hold);
        let engine = crate::load::pinned::PinnedEngine::new(&sources, &ring);
        let jobs = crate::load::pinned::in_parts(&ring, lanes(&plan, &mut buffers, options.copy_bytes));
        transfer(&checkpoint.files, jobs, &engine, options.threads, cancel)?;
        sources.check_unchanged(&checkpoint)?;
        phases.transfer_s = clock.lap();
        let mut report =
            LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), engine.outcome());
        (report.copy_bytes, report.staging_bytes) = (options.copy_bytes, ring.bytes());
        Ok((Loaded { checkpoint, plan, buffers }, report))
    })
}

/// The GPUs of each lane: one, or all of them where each gets everything.
pub(crate) fn gpus_of_lanes(gpus: &[Arc<Gpu>], placement: Placement) -> Vec<Vec<Arc<Gpu>>> {
    match placement {
        Placement::Balanced => gpus.iter().map(|gpu| vec![gpu.clone()]).collect(),
        Placement::Replicate => vec![gpus.to_vec()],
    }
}

/// Device memory for each lane's GPUs.
pub(crate) fn allocate(plan: &Plan, lanes: &[Vec<Arc<Gpu>>]) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for (lane, bytes) in lanes.iter().zip(&plan.destination_bytes) {
        for gpu in lane {
            buffers.push(Buffer::Device(DeviceBuffer::new(gpu, *bytes)?));
        }
    }
    Ok(buffers)
}

/// Poisons device memory, where the options say so, off the clock.
pub(crate) fn poison_all(buffers: &mut [Buffer], options: &Options, clock: &mut Clock) -> Result<()> {
    if options.poison {
        for buffer in buffers {
            if let Buffer::Device(device) = buffer {
                kernels::poison(device)?;
            }
        }
        clock.skip();
    }
    Ok(())
}

/// A stopwatch that counts laps.
pub struct Clock {
    started: Instant,
    lap: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        let now = Instant::now();
        Clock { started: now, lap: now }
    }

    /// Seconds since the last lap.
    pub fn lap(&mut self) -> f64 {
        // One look at the clock: between two the time would belong to no lap.
        let now = Instant::now();
        let lap_s = now.duration_since(self.lap).as_secs_f64();
        self.lap = now;
        lap_s
    }

    /// Leaves the time since the last lap out of everything.
    pub fn skip(&mut self) {
        let skipped = self.lap.elapsed();
        self.started += skipped;
        self.lap += skipped;
    }

    /// Seconds since the start, up to the last lap.
    pub fn total(&self) -> f64 {
        self.lap.duration_since(self.started).as_secs_f64()
    }
}

//! Loads through the pool: what it holds is copied at the link's rate; what it lacks is read into it, each
//! chunk copied on as soon as it is full.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::gpu::copies::{PieceCopy, Stream};
use crate::gpu::memory::{DeviceSlice, Pinned};
use crate::load::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use crate::load::phases::Phases;
use crate::load::plan::Plan;
use crate::load::pool::{Asked, Chunk, Filling, Model, Pool};
use crate::load::source::{Sources, Storage};
use crate::load::{
    Buffer, Clock, LoadReport, Loaded, Options, Placement, allocate, gpus_of_lanes, load_to_gpus, poison_all,
    transfer,
};
use crate::os::cancel::Cancel;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Loads to GPUs by way of the pool; past it where the checkpoint does not fit, which the report says.
pub fn load(
    pool: &Pool<Pinned>,
    path: &Path,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let clock = Clock::start();
    let lanes = gpus_of_lanes(gpus, placement);
    match pool.ask(path, lanes.len(), options.threads)? {
        Asked::Held(model) => from_pool(&model, &lanes, options, clock),
        Asked::Missing(filling) => fill(*filling, &lanes, options, cancel, clock),
        Asked::TooSmall(why) => {
            let (loaded, mut report) = load_to_gpus(path, gpus, placement, options, cancel)?;
            report.path_reason = format!("not through the pool: {why}; {}", report.path_reason);
            Ok((loaded, report))
        }
    }
}

/// Device slices for each chunk of the plan, by lane, with the bytes that a chunk holds.
fn slices<'a>(
    plan: &Plan,
    buffers: &'a mut [Buffer],
    chunk_bytes: u64,
) -> Vec<Vec<(u64, Vec<DeviceSlice<'a>>)>> {
    let of_job = |job: Job<'a>| match job.target {
        Target::Devices(slices) => (job.bytes, slices),
        Target::Host(_) | Target::Part(_) | Target::Staged(..) => (job.bytes, Vec::new()),
    };
    crate::load::lanes(plan, buffers, chunk_bytes)
        .into_iter()
        .map(|l| l.into_iter().map(of_job).collect())
        .collect()
}

fn from_pool(
    model: &Model<Pinned>,
    lanes: &[Vec<Arc<Gpu>>],
    options: &Options,
    mut clock: Clock,
) -> Result<(Loaded, LoadReport)> {
    let mut phases = Phases { open_s: clock.lap(), ..Phases::default() };
    let mut buffers = allocate(&model.plan, lanes)?;
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, &mut clock)?;
    let mut chunks = model.chunks.iter();
    let by_lane = slices(&model.plan, &mut buffers, model_chunk_bytes(model));
    let work: Vec<Vec<(u64, Vec<DeviceSlice>, &Pinned)>> = by_lane
        .into_iter()
        .map(|lane| lane.into_iter().zip(chunks.by_ref()).map(|((n, s), c)| (n, s, c)).collect())
        .collect();
    std::thread::scope(|scope| -> Result<()> {
        let mut copiers = Vec::new();
        for (gpus, copies) in lanes.iter().zip(&work) {
            for (i, gpu) in gpus.iter().enumerate() {
                copiers.push(scope.spawn(move || {
                    let mine: Vec<PieceCopy> = copies
                        .iter()
                        .map(|(n, slices, c)| PieceCopy { target: &slices[i], source: c, bytes: *n as usize })
                        .collect();
                    Stream::new(gpu)?.copy_pieces(&mine)
                }));
            }
        }
        for copier in copiers {
            copier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })?;
    drop(work);
    phases.transfer_s = clock.lap();
    let path = PathTaken {
        path: "pool".into(),
        reason: "the pool held the checkpoint".into(),
        direct_bytes: 0,
        buffered_bytes: 0,
    };
    let (loaded, mut report) = finished(
        model.checkpoint.clone(),
        model.plan.clone(),
        buffers,
        options,
        phases,
        clock.total(),
        path,
    )?;
    report.read_bytes = 0;
    Ok((loaded, report))
}

/// The pool cut the checkpoint into chunks of its own size; all but a segment's last are that long.
fn model_chunk_bytes(model: &Model<Pinned>) -> u64 {
    model.chunks.first().map_or(DIRECT_ALIGN, |c| c.as_slice().len() as u64)
}

fn fill(
    mut filling: Filling<'_, Pinned>,
    lanes: &[Vec<Arc<Gpu>>],
    options: &Options,
    cancel: &Cancel,
    mut clock: Clock,
) -> Result<(Loaded, LoadReport)> {
    let mut phases = Phases { register_s: clock.lap(), ..Phases::default() };
    let sources = Sources::open(&filling.checkpoint, options.io)?;
    phases.open_s = clock.lap();
    let mut buffers = allocate(&filling.plan, lanes)?;
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, &mut clock)?;
    let chunk_bytes = filling.chunks.first().map_or(DIRECT_ALIGN, |c| c.as_slice().len() as u64);
    let engine = FillEngine { storage: &sources, lanes: lanes.to_vec() };
    let jobs = staged_jobs(&filling.plan, &mut buffers, &mut filling.chunks, chunk_bytes);
    transfer(&filling.checkpoint.files, jobs, &engine, options.threads, cancel)?;
    // Before it is kept: later loads would be given the same.
    sources.check_unchanged(&filling.checkpoint)?;
    phases.transfer_s = clock.lap();
    let taken = engine.outcome();
    let model = filling.keep();
    finished(model.checkpoint.clone(), model.plan.clone(), buffers, options, phases, clock.total(), taken)
}

/// The plan's jobs, each with its pool chunk between the file and the devices.
fn staged_jobs<'a, C: Chunk>(
    plan: &Plan,
    buffers: &'a mut [Buffer],
    chunks: &'a mut [C],
    chunk_bytes: u64,
) -> Vec<Vec<Job<'a>>> {
    let mut chunks = chunks.iter_mut();
    let mut lanes = crate::load::lanes(plan, buffers, chunk_bytes);
    for job in lanes.iter_mut().flatten() {
        let (Some(chunk), Target::Devices(slices)) = (chunks.next(), &mut job.target) else { continue };
        let room = &mut chunk.as_mut_slice()[..align_up(job.bytes, DIRECT_ALIGN) as usize];
        job.target = Target::Staged(room, std::mem::take(slices));
    }
    lanes
}

fn finished(
    checkpoint: Checkpoint,
    plan: Plan,
    buffers: Vec<Buffer>,
    options: &Options,
    phases: Phases,
    elapsed_s: f64,
    taken: PathTaken,
) -> Result<(Loaded, LoadReport)> {
    let report = LoadReport::new(&checkpoint, &plan, options, phases, elapsed_s, taken);
    Ok((Loaded { checkpoint, plan, buffers }, report))
}

struct FillEngine<'s> {
    storage: &'s dyn Storage,
    lanes: Vec<Vec<Arc<Gpu>>>,
}

impl Engine for FillEngine<'_> {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        let gpus = &self.lanes[lane];
        crate::os::sys::run_near(gpus[0].numa_node);
        let streams =
            gpus.iter().map(Stream::new).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        Ok(Box::new(FillWorker { storage: self.storage, streams }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("pool-fill")
    }
}

struct FillWorker<'a> {
    storage: &'a dyn Storage,
    streams: Vec<Stream>,
}

impl Worker for FillWorker<'_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        let Target::Staged(room, slices) = &mut job.target else { return Err(wrong_target("pool-fill")) };
        let left = job.bytes - done;
        let n = self.storage.read(job.file, job.file_offset + done, left, &mut room[done as usize..])?;
        if n == left {
            // The chunk is full. Other threads read on while this one waits for its copy.
            for (stream, slice) in self.streams.iter().zip(slices.iter()) {
                stream.copy_all(&[(slice, &room[..job.bytes as usize])]).map_err(io::Error::other)?;
            }
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

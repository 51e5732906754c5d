//! Loads through the pool: what it holds is copied at the link's rate; what it lacks is read into it, each
//! chunk copied on as soon as it is full.

use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::copies::{PieceCopy, Stream};
use crate::gpu::memory::{DeviceSlice, Pinned};
use crate::gpu::{Gpu, GpuError};
use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::jobs::{Landing, targets, to_devices};
use crate::load::loaded::{Buffer, Destination, Loaded, Placement};
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::plan::Plan;
use crate::load::pool::{Asked, Chunk, Filling, Model, Pool};
use crate::load::prepare::{each_once, poison_all};
use crate::load::report::{Clock, LoadReport};
use crate::load::rings::Rings;
use crate::load::run::load_to_gpus;
use crate::load::source::{Sources, Storage};
use crate::load::task::{Task, allocate, lanes};
use crate::load::transfer::transfer;
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
    let lanes = lanes(&Destination::Gpus(gpus.to_vec(), placement));
    match pool.ask(path, lanes.len(), options.threads)? {
        Asked::Held(model) => from_pool(&model, &lanes, options, clock),
        Asked::Missing(filling) => fill(*filling, &lanes, options, cancel, clock),
        Asked::TooSmall(why) => {
            let open = || Ok(Arc::new(Checkpoint::open_whole(path)?));
            let task = Task::whole(&open, &Destination::Gpus(gpus.to_vec(), placement));
            let (loaded, mut report) = load_to_gpus(&task, options, &Rings::default(), cancel)?;
            report.path_reason = format!("not through the pool: {why}; {}", report.path_reason);
            Ok((loaded, report))
        }
    }
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
    let jobs = to_devices(&model.plan, targets(&model.plan, &mut buffers), model_chunk_bytes(model));
    let jobs: Vec<Job<Landing<'_>>> = jobs.into_iter().flatten().collect();
    std::thread::scope(|scope| -> Result<()> {
        let mut copiers = Vec::new();
        for gpu in each_once(lanes.iter().flatten()) {
            let (jobs, chunks) = (&jobs, &model.chunks);
            copiers.push(scope.spawn(move || copy_chunks(&gpu, jobs, chunks)));
        }
        for copier in copiers {
            copier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })?;
    drop(jobs);
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

/// Copies all that lands on one GPU from the pool's chunks, one a job.
fn copy_chunks(gpu: &Arc<Gpu>, jobs: &[Job<Landing<'_>>], chunks: &[Pinned]) -> Result<()> {
    let mut copies = Vec::new();
    for (job, source) in jobs.iter().zip(chunks) {
        for piece in job.memory.pieces.iter().flat_map(|piece| piece.runs()) {
            let here = job.memory.targets.of(&piece)?.filter(|(other, _)| other.index == gpu.index);
            let (from, bytes) = (piece.from as usize, piece.bytes as usize);
            copies.extend(here.map(|(_, target)| PieceCopy { target, source, from, bytes }));
        }
    }
    Ok(Stream::new(gpu)?.copy_pieces(&copies)?)
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
    let engine = FillEngine { storage: &sources, lanes: lanes.to_vec(), memory: PhantomData };
    let jobs = to_devices(&filling.plan, targets(&filling.plan, &mut buffers), chunk_bytes);
    let jobs = staged(jobs, &mut filling.chunks);
    transfer(&filling.checkpoint.files, jobs, &engine, options.threads, cancel)?;
    // Before it is kept: later loads would be given the same.
    sources.check_unchanged(&filling.checkpoint)?;
    phases.transfer_s = clock.lap();
    let taken = engine.outcome();
    let model = filling.keep();
    finished(model.checkpoint.clone(), model.plan.clone(), buffers, options, phases, clock.total(), taken)
}

/// Into pinned memory that stays, and from there to devices: how the pool is filled.
struct Staged<'a> {
    chunk: &'a mut [u8],
    landing: Landing<'a>,
}

/// The plan's jobs, each with its pool chunk between the file and the devices.
fn staged<'a, C: Chunk>(jobs: Vec<Vec<Job<Landing<'a>>>>, chunks: &'a mut [C]) -> Vec<Vec<Job<Staged<'a>>>> {
    let mut chunks = chunks.iter_mut();
    let mut lanes = Vec::new();
    for lane in jobs {
        let lane = lane.into_iter().zip(chunks.by_ref()).map(|(job, chunk)| {
            let Job { file, file_offset, bytes, memory: landing } = job;
            let chunk = &mut chunk.as_mut_slice()[..align_up(bytes, DIRECT_ALIGN) as usize];
            Job { file, file_offset, bytes, memory: Staged { chunk, landing } }
        });
        lanes.push(lane.collect());
    }
    lanes
}

fn finished(
    checkpoint: Arc<Checkpoint>,
    plan: Plan,
    buffers: Vec<Buffer>,
    options: &Options,
    phases: Phases,
    elapsed_s: f64,
    taken: PathTaken,
) -> Result<(Loaded, LoadReport)> {
    let report = LoadReport::new(&checkpoint, &plan, options, phases, elapsed_s, taken);
    Ok((Loaded::whole(checkpoint, plan, buffers), report))
}

struct FillEngine<'s, 'a> {
    storage: &'s dyn Storage,
    lanes: Vec<Vec<Arc<Gpu>>>,
    memory: PhantomData<fn(Staged<'a>)>,
}

impl<'a> Engine for FillEngine<'_, 'a> {
    type Memory = Staged<'a>;

    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<Staged<'a>> + '_>> {
        let gpus = each_once(&self.lanes[lane]);
        crate::os::sys::run_near(self.lanes[lane][0].numa_node);
        let streams = gpus.into_iter().map(|gpu| Ok((gpu.index, Stream::new(&gpu)?)));
        let streams = streams.collect::<Result<Vec<_>, GpuError>>().map_err(io::Error::other)?;
        Ok(Box::new(FillWorker { storage: self.storage, streams }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("pool-fill")
    }
}

struct FillWorker<'s> {
    storage: &'s dyn Storage,
    streams: Vec<(usize, Stream)>,
}

impl<'a> Worker<Staged<'a>> for FillWorker<'_> {
    fn read(&mut self, job: &mut Job<Staged<'a>>, done: u64) -> io::Result<u64> {
        let Staged { chunk, landing } = &mut job.memory;
        let left = job.bytes - done;
        let n = self.storage.read(job.file, job.file_offset + done, left, &mut chunk[done as usize..])?;
        if n == left {
            // The chunk is full. Other threads read on while this one waits for its copies.
            self.copy(chunk, landing).map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FillWorker<'_> {
    fn copy(&self, chunk: &[u8], landing: &Landing<'_>) -> Result<(), GpuError> {
        for (index, stream) in &self.streams {
            let mut copies: Vec<(DeviceSlice<'_>, &[u8])> = Vec::new();
            for piece in landing.pieces.iter().flat_map(|piece| piece.runs()) {
                let here = landing.targets.of(&piece)?.filter(|(gpu, _)| gpu.index == *index);
                let source = &chunk[piece.from as usize..][..piece.bytes as usize];
                copies.extend(here.map(|(_, target)| (target, source)));
            }
            stream.copy_all(&copies.iter().map(|(target, source)| (target, *source)).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

//! The loader: a plan in, bytes in place and a report out.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::bench::record::Phases;
use crate::checkpoint::{Checkpoint, DataFile};
use crate::cli::{EngineArgs, IoChoice};
use crate::interrupt::{Cancel, Interrupted};
use crate::memory::HostBuffer;
use crate::sys::{DIRECT_ALIGN, align_up};
use engine::{Engine, Job};
use plan::Plan;

/// `sllm-gds load`.
pub mod command;
/// What an engine is.
pub mod engine;
/// Storage faults from a seed, for tests.
pub mod fault;
/// Storage into host memory.
pub mod host;
/// Which bytes go where.
pub mod plan;
/// Files read through or past the page cache.
pub mod source;
/// Digests of what lies in the destination.
pub mod verify;

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    pub io: IoChoice,
    /// Bytes of one read: a multiple of 4 KiB.
    pub chunk_bytes: u64,
    pub threads: usize,
}

impl Options {
    pub fn new(args: &EngineArgs) -> Result<Options> {
        // A chunk is one request to the kernel; 1 GiB is already far past where it matters.
        if args.chunk_size > 1 << 30 {
            bail!("--chunk-size {} is more than 1 GiB; 4MB to 16MB are usual", args.chunk_size);
        }
        Ok(Options {
            io: args.io,
            chunk_bytes: align_up(args.chunk_size, DIRECT_ALIGN),
            threads: args.num_threads.map_or_else(default_threads, |n| n as usize),
        })
    }
}

/// Four keep a slow drive's queue full; past 16 nothing was gained where it was measured.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get()).clamp(4, 16)
}

/// A checkpoint in memory. Tensors are views: name, type, shape from the checkpoint, place from the plan.
pub struct Loaded {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    pub buffers: Vec<HostBuffer>,
}

impl Loaded {
    /// The bytes of tensor `index` of the checkpoint.
    pub fn tensor(&self, index: usize) -> &[u8] {
        let (place, bytes) = (self.plan.places[index], self.checkpoint.tensors[index].bytes);
        &self.buffers[place.destination].as_slice()[place.offset as usize..][..bytes as usize]
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
    pub threads: usize,
}

/// Loads a checkpoint into host memory.
pub fn load(path: &Path, options: &Options, cancel: &Cancel) -> Result<(Loaded, LoadReport)> {
    let mut clock = Clock::start();
    let mut phases = Phases::default();
    let checkpoint = Checkpoint::open(path)?;
    let engine = host::HostEngine::new(source::Sources::open(&checkpoint, options.io)?);
    phases.open_s = clock.lap();
    let plan = Plan::new(&checkpoint, 1)?;
    phases.plan_s = clock.lap();
    let mut buffers =
        plan.destination_bytes.iter().map(|b| HostBuffer::new(*b)).collect::<Result<Vec<_>>>()?;
    phases.allocate_s = clock.lap();
    transfer(&checkpoint.files, &plan, &engine, &mut buffers, options, cancel)
        .with_context(|| format!("load {}", path.display()))?;
    phases.transfer_s = clock.lap();
    let elapsed_s = clock.total();
    let taken = engine.outcome();
    let bytes = checkpoint.tensor_bytes();
    let report = LoadReport {
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
        threads: options.threads,
    };
    Ok((Loaded { checkpoint, plan, buffers }, report))
}

/// Moves every segment of the plan with `engine`. The first failure stops all threads and is returned.
pub fn transfer(
    files: &[DataFile],
    plan: &Plan,
    engine: &dyn Engine,
    buffers: &mut [HostBuffer],
    options: &Options,
    cancel: &Cancel,
) -> Result<()> {
    let jobs = jobs(plan, buffers, options.chunk_bytes);
    let threads = options.threads.min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = work(files, engine, &queue, &stop, cancel) {
                    stop.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// One thread: job after job, until none is left or somebody failed.
fn work<'a>(
    files: &[DataFile],
    engine: &dyn Engine,
    queue: &Mutex<impl Iterator<Item = Job<'a>>>,
    stop: &AtomicBool,
    cancel: &Cancel,
) -> Result<()> {
    let mut worker = engine.worker().context("start a reader thread")?;
    loop {
        let Some(mut job) = queue.lock().unwrap_or_else(|e| e.into_inner()).next() else { break };
        let mut done = 0u64;
        while done < job.bytes {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if cancel.is_set() {
                bail!(Interrupted);
            }
            let (path, at) = (&files[job.file].path, job.file_offset + done);
            match worker.read(&mut job, done) {
                Ok(0) => bail!(
                    "{} ends at byte {at}, {} bytes short of what its index promises: it was cut short",
                    path.display(),
                    job.bytes - done
                ),
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let what = format!("read {} bytes at {at} of {}", job.bytes - done, path.display());
                    return Err(anyhow!(e).context(what));
                }
            }
        }
    }
    worker.finish().context("wait for the last bytes")
}

/// Cuts segments into chunks, each with its own piece of memory: no two can overlap.
fn jobs<'a>(plan: &Plan, buffers: &'a mut [HostBuffer], chunk_bytes: u64) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for (destination, buffer) in buffers.iter_mut().enumerate() {
        let mut rest = buffer.as_mut_slice();
        let mut rest_offset = 0u64;
        for segment in plan.segments.iter().filter(|s| s.destination == destination) {
            let (_, after_gap) = rest.split_at_mut((segment.dest_offset - rest_offset) as usize);
            let (mut room, after) = after_gap.split_at_mut(align_up(segment.bytes, DIRECT_ALIGN) as usize);
            rest = after;
            rest_offset = segment.dest_offset + room.len() as u64;
            let mut done = 0u64;
            while done < segment.bytes {
                let bytes = chunk_bytes.min(segment.bytes - done);
                let (target, room_left) = room.split_at_mut(align_up(bytes, DIRECT_ALIGN) as usize);
                room = room_left;
                jobs.push(Job { file: segment.file, file_offset: segment.file_offset + done, bytes, target });
                done += bytes;
            }
        }
    }
    jobs
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
        let lap_s = self.lap.elapsed().as_secs_f64();
        self.lap = Instant::now();
        lap_s
    }

    /// Seconds since the start, up to the last lap.
    pub fn total(&self) -> f64 {
        self.lap.duration_since(self.started).as_secs_f64()
    }
}

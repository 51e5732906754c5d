//! The one loop that moves bytes, whatever the engine: threads, short reads, `EINTR`, cancellation, first error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use super::Buffer;
use super::engine::{Engine, Job, Target};
use super::plan::Plan;
use crate::checkpoint::DataFile;
use crate::interrupt::{Cancel, Interrupted};
use crate::sys::{DIRECT_ALIGN, align_up};

/// Moves every job with `engine`, `threads` to a lane. The first failure stops all threads and is returned.
pub fn transfer(
    files: &[DataFile],
    lanes: Vec<Vec<Job<'_>>>,
    engine: &dyn Engine,
    threads: usize,
    cancel: &Cancel,
) -> Result<()> {
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let lanes: Vec<(usize, Mutex<_>)> =
        lanes.into_iter().map(|l| (l.len(), Mutex::new(l.into_iter()))).collect();
    std::thread::scope(|scope| {
        for (lane, (jobs, queue)) in lanes.iter().enumerate() {
            for _ in 0..threads.clamp(1, (*jobs).max(1)) {
                let (stop, failure) = (&stop, &failure);
                scope.spawn(move || {
                    if let Err(error) = work(files, engine, lane, queue, stop, cancel) {
                        stop.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// One thread: job after job, until none is left or somebody failed.
fn work<'a>(
    files: &[DataFile],
    engine: &dyn Engine,
    lane: usize,
    queue: &Mutex<impl Iterator<Item = Job<'a>>>,
    stop: &AtomicBool,
    cancel: &Cancel,
) -> Result<()> {
    let mut worker = engine.worker(lane).context("start a reader thread")?;
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

/// A lane of jobs for each destination of the plan. Segments are cut into chunks, each with its own piece of
/// memory: no two can overlap.
pub fn lanes<'a>(plan: &Plan, buffers: &'a mut [Buffer], chunk_bytes: u64) -> Vec<Vec<Job<'a>>> {
    let chunk_bytes = align_up(chunk_bytes.max(1), DIRECT_ALIGN);
    let replicated = plan.destination_bytes.len() < buffers.len();
    let mut rests: Vec<Target<'a>> = Vec::new();
    for buffer in buffers {
        let room = match buffer {
            Buffer::Device(device) => device.as_mut_slice(),
            Buffer::Host(host) => {
                rests.push(Target::Host(host.as_mut_slice()));
                continue;
            }
        };
        match rests.last_mut() {
            Some(Target::Devices(all)) if replicated => all.push(room),
            _ => rests.push(Target::Devices(vec![room])),
        }
    }
    let lane = |(destination, mut rest): (usize, Target<'a>)| {
        let mut jobs = Vec::new();
        let mut rest_offset = 0u64;
        for segment in plan.segments.iter().filter(|s| s.destination == destination) {
            let (_, after_gap) = rest.split_at(segment.dest_offset - rest_offset);
            let (mut room, after) = after_gap.split_at(align_up(segment.bytes, DIRECT_ALIGN));
            rest = after;
            rest_offset = segment.dest_offset + align_up(segment.bytes, DIRECT_ALIGN);
            let mut done = 0u64;
            while done < segment.bytes {
                let bytes = chunk_bytes.min(segment.bytes - done);
                let (target, room_left) = room.split_at(align_up(bytes, DIRECT_ALIGN));
                room = room_left;
                jobs.push(Job { file: segment.file, file_offset: segment.file_offset + done, bytes, target });
                done += bytes;
            }
        }
        jobs
    };
    rests.into_iter().enumerate().map(lane).collect()
}

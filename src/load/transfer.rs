//! The one loop that moves bytes, whatever the engine: threads, short reads, `EINTR`, cancellation, first error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use crate::checkpoint::DataFile;
use crate::load::Buffer;
use crate::load::engine::{Engine, Job, Target};
use crate::load::plan::Plan;
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::sys::{DIRECT_ALIGN, align_up};

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
    let lanes: Vec<(usize, Queue)> =
        lanes.into_iter().map(|l| (l.len(), Mutex::new(l.into_iter()))).collect();
    std::thread::scope(|scope| {
        for (lane, (jobs, queue)) in lanes.iter().enumerate() {
            for _ in 0..threads.clamp(1, (*jobs).max(1)) {
                let (stop, failure) = (&stop, &failure);
                scope.spawn(move || {
                    if let Err(error) = work(files, engine, lane, queue, stop, cancel) {
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// The jobs of a lane that no thread has taken.
type Queue<'a> = Mutex<std::vec::IntoIter<Job<'a>>>;

/// A thread at work. If it ends early, by an error or a panic, or because somebody else failed, the others stop, and
/// the rest of the lane's jobs go: they may have parts of memory that others wait for.
struct AtWork<'q, 'a> {
    engine: &'q dyn Engine,
    queue: &'q Queue<'a>,
    stop: &'q AtomicBool,
    finished: bool,
}

impl Drop for AtWork<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            self.stop.store(true, Ordering::Relaxed);
            self.engine.stop();
            let rest = std::mem::take(&mut *self.queue.lock().unwrap_or_else(|e| e.into_inner()));
            drop(rest);
        }
    }
}

/// One thread: job after job, until none is left or somebody failed.
fn work(
    files: &[DataFile],
    engine: &dyn Engine,
    lane: usize,
    queue: &Queue<'_>,
    stop: &AtomicBool,
    cancel: &Cancel,
) -> Result<()> {
    let mut at_work = AtWork { engine, queue, stop, finished: false };
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
    worker.finish().context("wait for the last bytes")?;
    at_work.finished = true;
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::load::engine::{PathTaken, Worker};

    /// The first read goes wrong once a second is under way; that is interrupted for as long as the loop asks again.
    struct Failing {
        panics: bool,
        reads: AtomicUsize,
    }

    /// The loop would ask for ever: long after any other thread has stopped, this ends the test.
    const TOO_OFTEN: usize = 1 << 24;

    impl Engine for Failing {
        fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker + '_>> {
            Ok(Box::new(FailingWorker(self)))
        }
        fn outcome(&self) -> PathTaken {
            PathTaken { path: String::new(), reason: String::new(), direct_bytes: 0, buffered_bytes: 0 }
        }
    }

    struct FailingWorker<'a>(&'a Failing);

    impl Worker for FailingWorker<'_> {
        fn read(&mut self, job: &mut Job<'_>, _done: u64) -> io::Result<u64> {
            let reads = self.0.reads.fetch_add(1, Ordering::SeqCst);
            if job.file_offset > 0 {
                std::thread::yield_now();
                assert!(reads < TOO_OFTEN, "nobody told this thread to stop");
                return Err(io::ErrorKind::Interrupted.into());
            }
            while self.0.reads.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            match self.0.panics {
                true => resume_unwind(Box::new("a panic in an engine")),
                false => Err(io::Error::from_raw_os_error(libc::EIO)),
            }
        }
        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_threads_end_stops_the_others_in_every_lane() {
        let files =
            [DataFile { path: "f".into(), base: 0, bytes: 4096, header_bytes: 0, stamp: Default::default() }];
        for panics in [false, true] {
            for lanes in [1, 3] {
                let engine = Failing { panics, reads: AtomicUsize::new(0) };
                let job = |file_offset| Job { file: 0, file_offset, bytes: 1, target: Target::Host(&mut []) };
                let jobs = (0..lanes).map(|lane| (lane..9).map(job).collect()).collect();
                let ran =
                    catch_unwind(AssertUnwindSafe(|| transfer(&files, jobs, &engine, 3, &Cancel::new())));
                match ran {
                    Ok(result) => {
                        assert!(format!("{:#}", result.unwrap_err()).contains("os error 5") && !panics)
                    }
                    Err(_) => assert!(panics),
                }
                assert!(engine.reads.load(Ordering::SeqCst) < TOO_OFTEN);
            }
        }
    }
}

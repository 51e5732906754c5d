//! The one loop that moves bytes, whatever the engine: threads, short reads, `EINTR`, cancellation, first error.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail};

use crate::checkpoint::DataFile;
use crate::load::engine::{Engine, Job};
use crate::os::cancel::{Cancel, Interrupted};

/// A read that failed.
#[derive(Debug, thiserror::Error)]
#[error("read {bytes} bytes at {offset} of {}", path.display())]
pub struct ReadError {
    pub path: PathBuf,
    pub offset: u64,
    /// What was asked for.
    pub bytes: u64,
    pub source: io::Error,
}

/// Where the threads of a lane get their jobs from.
pub trait JobSource<M>: Sync {
    /// Jobs that it will give out at most: more threads than that are not started.
    fn count(&self) -> usize;

    /// The next job; `None` where there is none left. May wait for what others do, as long as `cancel` is not set.
    fn next(&self, cancel: &Cancel) -> Result<Option<Job<M>>>;

    /// A thread ended early: gives out no more jobs, and nobody goes on waiting for one. What jobs are left go: they may
    /// have parts of memory that others wait for.
    fn stop(&self);
}

/// The jobs of a lane that no thread has taken.
struct Queue<M> {
    count: usize,
    jobs: Mutex<std::vec::IntoIter<Job<M>>>,
}

impl<M> Queue<M> {
    fn new(jobs: Vec<Job<M>>) -> Queue<M> {
        Queue { count: jobs.len(), jobs: Mutex::new(jobs.into_iter()) }
    }

    fn lock(&self) -> MutexGuard<'_, std::vec::IntoIter<Job<M>>> {
        self.jobs.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<M: Send> JobSource<M> for Queue<M> {
    fn count(&self) -> usize {
        self.count
    }

    fn next(&self, _cancel: &Cancel) -> Result<Option<Job<M>>> {
        Ok(self.lock().next())
    }

    fn stop(&self) {
        let rest = std::mem::take(&mut *self.lock());
        drop(rest);
    }
}

/// Moves every job with `engine`, `threads` to a lane. The first failure stops all threads and is returned.
pub fn transfer<E: Engine>(
    files: &[DataFile],
    lanes: Vec<Vec<Job<E::Memory>>>,
    engine: &E,
    threads: usize,
    cancel: &Cancel,
) -> Result<()> {
    transfer_telling(files, lanes, engine, threads, cancel, &|_| {})
}

/// The same; calls `moved` with the bytes of every read.
pub fn transfer_telling<E: Engine>(
    files: &[DataFile],
    lanes: Vec<Vec<Job<E::Memory>>>,
    engine: &E,
    threads: usize,
    cancel: &Cancel,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let lanes: Vec<Queue<E::Memory>> = lanes.into_iter().map(Queue::new).collect();
    let lanes: Vec<&dyn JobSource<E::Memory>> = lanes.iter().map(|lane| lane as _).collect();
    transfer_from(files, &lanes, engine, threads, cancel, moved)
}

/// The same with jobs that are not all known when it begins. Several lanes may share a source.
pub fn transfer_from<E: Engine>(
    files: &[DataFile],
    lanes: &[&dyn JobSource<E::Memory>],
    engine: &E,
    threads: usize,
    cancel: &Cancel,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (lane, jobs) in lanes.iter().enumerate() {
            for _ in 0..threads.clamp(1, jobs.count().max(1)) {
                let (stop, failure) = (&stop, &failure);
                scope.spawn(move || {
                    if let Err(error) = work(files, engine, lane, *jobs, stop, cancel, moved) {
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                });
            }
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// A thread at work. If it ends early, by an error or a panic, or because somebody else failed, the others stop, and
/// the rest of the lane's jobs go.
struct AtWork<'q, E: Engine> {
    engine: &'q E,
    jobs: &'q dyn JobSource<E::Memory>,
    stop: &'q AtomicBool,
    finished: bool,
}

impl<E: Engine> Drop for AtWork<'_, E> {
    fn drop(&mut self) {
        if !self.finished {
            self.stop.store(true, Ordering::Relaxed);
            self.engine.stop();
            self.jobs.stop();
        }
    }
}

/// One thread: job after job, until none is left or somebody failed.
fn work<E: Engine>(
    files: &[DataFile],
    engine: &E,
    lane: usize,
    jobs: &dyn JobSource<E::Memory>,
    stop: &AtomicBool,
    cancel: &Cancel,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut at_work = AtWork { engine, jobs, stop, finished: false };
    let mut worker = engine.worker(lane).context("start a reader thread")?;
    while let Some(mut job) = jobs.next(cancel)? {
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
                    "{} ends at byte {at}, {} bytes short of what its index promises: it was cut short; fetch or save it anew",
                    path.display(),
                    job.bytes - done
                ),
                Ok(n) => {
                    done += n;
                    moved(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    bail!(ReadError { path: path.clone(), offset: at, bytes: job.bytes - done, source })
                }
            }
        }
    }
    worker.finish().context("wait for the last bytes")?;
    at_work.finished = true;
    Ok(())
}

#[cfg(test)]
mod tests {
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
        type Memory = ();

        fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<()> + '_>> {
            Ok(Box::new(FailingWorker(self)))
        }
        fn outcome(&self) -> PathTaken {
            PathTaken { path: String::new(), reason: String::new(), direct_bytes: 0, buffered_bytes: 0 }
        }
    }

    struct FailingWorker<'a>(&'a Failing);

    impl Worker<()> for FailingWorker<'_> {
        fn read(&mut self, job: &mut Job<()>, _done: u64) -> io::Result<u64> {
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
                let job = |file_offset| Job { file: 0, file_offset, bytes: 1, memory: () };
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

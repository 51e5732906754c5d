//! The one loop that moves bytes, whatever the engine: threads, short reads, `EINTR`, cancellation, first error.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail};

use crate::checkpoint::DataFile;
use crate::load::engine::{Engine, Job};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::threads;

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

/// A file that is shorter than its index says.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} ends at byte {at}, {missing_bytes} bytes short of what its index promises: it was cut short; fetch or save it anew",
    path.display()
)]
pub struct EndsEarly {
    pub path: PathBuf,
    pub at: u64,
    pub missing_bytes: u64,
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

/// Moves every job with `engine`, `threads` to a lane. The first failure stops all threads and is returned; a panic goes on in
/// the caller.
pub fn transfer<E: Engine>(
    files: &[DataFile],
    lanes: Vec<Vec<Job<E::Memory>>>,
    engine: &E,
    threads: usize,
    cancel: &Cancel,
) -> Result<()> {
    transfer_telling(files, lanes, engine, threads, cancel, &|_| {}).map(drop)
}

/// The same; calls `moved` with the bytes of every read. Says how many threads a lane had at most: there are no more than jobs,
/// and the system may refuse all but one.
pub fn transfer_telling<E: Engine>(
    files: &[DataFile],
    lanes: Vec<Vec<Job<E::Memory>>>,
    engine: &E,
    threads: usize,
    cancel: &Cancel,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<usize> {
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
) -> Result<usize> {
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let failed = |error| {
        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
    };
    let stop = AtomicBool::new(false);
    let wanted = |jobs: &dyn JobSource<E::Memory>| threads.clamp(1, jobs.count().max(1));
    let most_wanted = lanes.iter().map(|jobs| wanted(*jobs)).max().unwrap_or(0);
    let mut most_started = 0;
    std::thread::scope(|scope| {
        let mut started = Vec::new();
        // The first of every lane before the second of any: what one thread of a lane can do, it does without the others.
        'all: for number in 0..most_wanted {
            for (lane, jobs) in lanes.iter().enumerate().filter(|(_, jobs)| number < wanted(**jobs)) {
                let (stop, failed) = (&stop, &failed);
                let run = move || {
                    if let Err(error) = work(files, engine, lane, *jobs, stop, cancel, moved) {
                        failed(error);
                    }
                };
                match threads::start(scope, run) {
                    Ok(thread) => {
                        started.push(thread);
                        most_started = number + 1;
                    }
                    Err(_) if number > 0 => break 'all,
                    Err(error) => {
                        failed(error.into());
                        // Nobody works in this lane and those behind it: all others stop.
                        lanes[lane..].iter().for_each(|jobs| {
                            drop(AtWork { engine, jobs: *jobs, stop, finished: false });
                        });
                        break 'all;
                    }
                }
            }
        }
        for thread in started {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(most_started), Err)
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
                Ok(0) => bail!(EndsEarly { path: path.clone(), at, missing_bytes: job.bytes - done }),
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
    use crate::os::threads::tests::with_threads;

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

    /// Reads whatever is asked.
    struct Reading;

    impl Engine for Reading {
        type Memory = ();

        fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<()> + '_>> {
            Ok(Box::new(Reading))
        }
        fn outcome(&self) -> PathTaken {
            PathTaken { path: String::new(), reason: String::new(), direct_bytes: 0, buffered_bytes: 0 }
        }
    }

    impl Worker<()> for Reading {
        fn read(&mut self, job: &mut Job<()>, done: u64) -> io::Result<u64> {
            Ok(job.bytes - done)
        }
        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_thread_of_each_lane_is_enough_and_a_lane_without_any_is_an_error() {
        let files =
            [DataFile { path: "f".into(), base: 0, bytes: 4096, header_bytes: 0, stamp: Default::default() }];
        let run = |most: usize| {
            let job = |file_offset| Job { file: 0, file_offset, bytes: 1, memory: () };
            let jobs = (0..3).map(|lane| (0..5 + lane).map(job).collect()).collect();
            let moved = AtomicUsize::new(0);
            let tell = |bytes| {
                moved.fetch_add(bytes as usize, Ordering::SeqCst);
            };
            let done =
                with_threads(most, || transfer_telling(&files, jobs, &Reading, 6, &Cancel::new(), &tell));
            (done.map_err(|error| error.to_string()), moved.into_inner())
        };
        assert_eq!(run(usize::MAX), (Ok(6), 18));
        assert_eq!(run(3), (Ok(1), 18));
        assert_eq!(run(4), (Ok(2), 18), "one lane has a second one");
        for most in 0..3 {
            let why = run(most).0.unwrap_err();
            assert!(why.contains("refuses a thread"), "{why}");
        }
    }

    #[test]
    fn a_panic_goes_on_with_what_it_says() {
        let files =
            [DataFile { path: "f".into(), base: 0, bytes: 4096, header_bytes: 0, stamp: Default::default() }];
        let jobs = vec![vec![Job { file: 0, file_offset: 0, bytes: 1, memory: () }]];
        let tell = |_| panic!("told enough");
        let run = || transfer_telling(&files, jobs, &Reading, 6, &Cancel::new(), &tell);
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"told enough"));
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

//! A wrapper around any engine that does what storage does on a bad day, from a seed. For tests of the
//! loader and of verification; nothing selects it outside them.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Engine, Job, PathTaken, Worker};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Fewer bytes than asked for. Harmless to a loop that goes on.
    ShortRead,
    /// `EINTR`. Harmless.
    Interrupted,
    /// Late, after other threads had their turns. Harmless.
    Stalled,
    /// `EIO`: the load must fail.
    InputOutput,
    /// The file ends early: the load must fail.
    Truncated,
    /// Bytes of another place in the file: silent.
    WrongPlace,
    /// Claimed, but not read: whatever lay in the buffer stays. Silent.
    Stale,
    /// One bit: silent.
    FlippedBit,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::ShortRead,
        Fault::Interrupted,
        Fault::Stalled,
        Fault::InputOutput,
        Fault::Truncated,
        Fault::WrongPlace,
        Fault::Stale,
        Fault::FlippedBit,
    ];

    /// Whether only verification can notice.
    pub fn is_silent(self) -> bool {
        matches!(self, Fault::WrongPlace | Fault::Stale | Fault::FlippedBit)
    }

    /// Whether the load itself must fail.
    pub fn is_loud(self) -> bool {
        matches!(self, Fault::InputOutput | Fault::Truncated)
    }
}

/// Wraps an engine. One read in `one_in` goes wrong, in one of the given ways.
pub struct FaultEngine<E> {
    inner: E,
    seed: u64,
    one_in: u64,
    faults: Vec<Fault>,
    reads: AtomicU64,
    injected: Mutex<Vec<Fault>>,
}

impl<E: Engine> FaultEngine<E> {
    pub fn new(inner: E, seed: u64, one_in: u64, faults: &[Fault]) -> FaultEngine<E> {
        let (reads, injected) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        FaultEngine { inner, seed, one_in: one_in.max(1), faults: faults.to_vec(), reads, injected }
    }

    /// The faults so far.
    pub fn injected(&self) -> Vec<Fault> {
        self.injected.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Random bits for a read: the same for the same seed, place and attempt.
    fn dice(&self, job: &Job<'_>, done: u64) -> u64 {
        let attempt = self.reads.fetch_add(1, Ordering::Relaxed);
        let text = [self.seed, job.file as u64, job.file_offset + done, attempt].map(u64::to_le_bytes);
        crate::digest::digest(text.as_flattened()).0
    }
}

impl<E: Engine> Engine for FaultEngine<E> {
    fn worker(&self) -> io::Result<Box<dyn Worker + '_>> {
        Ok(Box::new(FaultWorker { inner: self.inner.worker()?, engine: self }))
    }

    fn outcome(&self) -> PathTaken {
        self.inner.outcome()
    }
}

struct FaultWorker<'a, E> {
    inner: Box<dyn Worker + 'a>,
    engine: &'a FaultEngine<E>,
}

impl<E: Engine> Worker for FaultWorker<'_, E> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        let dice = self.engine.dice(job, done);
        if !dice.is_multiple_of(self.engine.one_in) || self.engine.faults.is_empty() {
            return self.inner.read(job, done);
        }
        let dice = dice / self.engine.one_in;
        let fault = self.engine.faults[dice as usize % self.engine.faults.len()];
        let dice = dice / self.engine.faults.len() as u64;
        self.engine.injected.lock().unwrap_or_else(|e| e.into_inner()).push(fault);
        let left = job.bytes - done;
        match fault {
            Fault::Interrupted => Err(io::ErrorKind::Interrupted.into()),
            Fault::InputOutput => Err(io::Error::from_raw_os_error(libc::EIO)),
            Fault::Truncated => Ok(0),
            Fault::Stale => Ok(left),
            Fault::Stalled => {
                for _ in 0..100 {
                    std::thread::yield_now();
                }
                self.inner.read(job, done)
            }
            Fault::ShortRead => {
                let n = self.inner.read(job, done)?;
                Ok(if n > 1 { 1 + dice % (n - 1) } else { n })
            }
            Fault::WrongPlace => {
                let right = job.file_offset;
                job.file_offset = if right >= 4096 { right - 4096 } else { right + 4096 };
                let n = self.inner.read(job, done);
                job.file_offset = right;
                // Past the end of the file there is no other place to read from.
                if matches!(n, Ok(0)) { self.inner.read(job, done) } else { n }
            }
            Fault::FlippedBit => {
                let n = self.inner.read(job, done)?;
                if n > 0 {
                    job.target[(done + dice / 8 % n) as usize] ^= 1 << (dice % 8);
                }
                Ok(n)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.inner.finish()
    }
}

//! A wrapper around any engine that does what storage does on a bad day, from a seed. For tests of the
//! loader and of verification; nothing selects it outside them.
//!
//! What happens to a read follows from the seed, the place of the read and the attempts made there, and not
//! from the order of threads: a seed that failed fails again.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Engine, Job, PathTaken, Target, Worker};

/// Turns that a stalled read gives to other threads at most.
const STALL_TURNS: u32 = 20;
/// Reads by others that a stalled read waits for.
const STALL_READS: u64 = 4;

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

/// A fault that took place, and where: the first byte that the read was to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    pub fault: Fault,
    pub file: usize,
    pub file_offset: u64,
}

/// Wraps an engine. One read in `one_in` goes wrong, in one of the given ways.
pub struct FaultEngine<E> {
    inner: E,
    seed: u64,
    one_in: u64,
    faults: Vec<Fault>,
    /// By all threads: tells a stalled read whether others have moved on.
    reads: AtomicU64,
    injected: Mutex<Vec<Injected>>,
}

impl<E: Engine> FaultEngine<E> {
    pub fn new(inner: E, seed: u64, one_in: u64, faults: &[Fault]) -> FaultEngine<E> {
        let (reads, injected) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        FaultEngine { inner, seed, one_in: one_in.max(1), faults: faults.to_vec(), reads, injected }
    }

    /// The faults so far, in no order that means anything.
    pub fn injected(&self) -> Vec<Injected> {
        self.injected.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Gives other threads their turns, until some have read or none seems to be there.
    fn stall(&self) {
        let until = self.reads.load(Ordering::Relaxed) + STALL_READS;
        for _ in 0..STALL_TURNS {
            if self.reads.load(Ordering::Relaxed) >= until {
                return;
            }
            std::thread::yield_now();
        }
    }
}

impl<E: Engine> Engine for FaultEngine<E> {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        Ok(Box::new(FaultWorker { inner: self.inner.worker(lane)?, engine: self, attempts: 0 }))
    }

    fn outcome(&self) -> PathTaken {
        self.inner.outcome()
    }
}

struct FaultWorker<'a, E> {
    inner: Box<dyn Worker + 'a>,
    engine: &'a FaultEngine<E>,
    /// Interruptions in a row: the next read is at the same place, and must fall out differently.
    attempts: u64,
}

/// The bytes that were just read, where they can be touched: nothing on a device.
fn host_room<'a>(target: &'a mut Target<'_>, done: u64, bytes: u64) -> &'a mut [u8] {
    match target {
        Target::Host(room) | Target::Staged(room, _) => &mut room[done as usize..(done + bytes) as usize],
        Target::Devices(_) => &mut [],
    }
}

impl<E: Engine> FaultWorker<'_, E> {
    /// Random bits for the next read at this place.
    fn dice(&self, file: usize, file_offset: u64) -> u64 {
        let text = [self.engine.seed, file as u64, file_offset, self.attempts].map(u64::to_le_bytes);
        crate::digest::digest(text.as_flattened()).0
    }

    /// Does what `fault` does. Says how many bytes are claimed, and whether the fault could take place.
    fn fail(&mut self, fault: Fault, dice: u64, job: &mut Job<'_>, done: u64) -> (io::Result<u64>, bool) {
        match fault {
            Fault::Interrupted => (Err(io::ErrorKind::Interrupted.into()), true),
            Fault::InputOutput => (Err(io::Error::from_raw_os_error(libc::EIO)), true),
            Fault::Truncated => (Ok(0), true),
            Fault::Stale => (Ok(job.bytes - done), true),
            Fault::Stalled => {
                self.engine.stall();
                (self.inner.read(job, done), true)
            }
            Fault::ShortRead => match self.inner.read(job, done) {
                Ok(n) if n > 1 => {
                    let short = 1 + dice % (n - 1);
                    // Nothing may be left there for a loop that doesn't ask again.
                    let room = host_room(&mut job.target, done, n);
                    room.iter_mut().skip(short as usize).for_each(|b| *b = !*b);
                    (Ok(short), true)
                }
                other => (other, false),
            },
            Fault::FlippedBit => match self.inner.read(job, done) {
                Ok(n) if n > 0 => {
                    let bit = dice % (n * 8);
                    let byte = host_room(&mut job.target, done, n).get_mut((bit / 8) as usize);
                    let took_place = byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some();
                    (Ok(n), took_place)
                }
                other => (other, false),
            },
            Fault::WrongPlace => {
                let right = job.file_offset;
                let distance = 512u64 << (dice % 8);
                job.file_offset = right.checked_sub(distance).unwrap_or(right + distance);
                let read = self.inner.read(job, done);
                job.file_offset = right;
                match read {
                    // Past the end of the file there is no other place to read from.
                    Ok(0) => (self.inner.read(job, done), false),
                    other => (other, true),
                }
            }
        }
    }
}

impl<E: Engine> Worker for FaultWorker<'_, E> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        self.engine.reads.fetch_add(1, Ordering::Relaxed);
        let (file, file_offset) = (job.file, job.file_offset + done);
        let dice = self.dice(file, file_offset);
        let engine = self.engine;
        if engine.faults.is_empty() || !dice.is_multiple_of(engine.one_in) {
            self.attempts = 0;
            return self.inner.read(job, done);
        }
        let dice = dice / engine.one_in;
        let fault = engine.faults[(dice % engine.faults.len() as u64) as usize];
        let (result, took_place) = self.fail(fault, dice / engine.faults.len() as u64, job, done);
        if took_place {
            let injected = Injected { fault, file, file_offset };
            engine.injected.lock().unwrap_or_else(|e| e.into_inner()).push(injected);
        }
        let again = matches!(&result, Err(e) if e.kind() == io::ErrorKind::Interrupted);
        self.attempts = if again { self.attempts + 1 } else { 0 };
        result
    }

    fn finish(&mut self) -> io::Result<()> {
        self.inner.finish()
    }
}

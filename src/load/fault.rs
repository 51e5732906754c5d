//! Storage that does what storage does on a bad day, from a seed: under any engine, for tests of the loader and of
//! verification; nothing selects it outside them.
//!
//! What happens to a read follows from the seed, the place of the read and the attempts made there, and not
//! from the order of threads: a seed that failed fails again.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use crate::load::engine::PathTaken;
pub use crate::load::faults::{Fault, Faults};
use crate::load::source::Storage;

/// Turns that a stalled read gives to other threads at most.
const STALL_TURNS: u32 = 20;
/// Reads by others that a stalled read waits for.
const STALL_READS: u64 = 4;

/// Storage of a checkpoint at `dir`, with these faults.
pub(super) fn wrap<'s>(faults: &'s Faults, dir: &Path, inner: &'s dyn Storage) -> Option<FaultStorage<'s>> {
    let storage = |seed| FaultStorage::new(inner, seed, faults.one_in, &faults.kinds);
    faults.next(dir).map(|seed| FaultStorage { hung: Some(faults), ..storage(seed) })
}

/// A fault that took place, and where: the first byte that the read was to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    pub fault: Fault,
    pub file: usize,
    pub file_offset: u64,
}

/// Wraps storage. One read in `one_in` goes wrong, in one of the given ways.
pub struct FaultStorage<'s> {
    inner: &'s dyn Storage,
    seed: u64,
    one_in: u64,
    faults: Vec<Fault>,
    /// Where a read hangs.
    hung: Option<&'s Faults>,
    /// By all threads: tells a stalled read whether others have moved on.
    reads: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    injected: Vec<Injected>,
    /// Reads so far at a place, by thread: each must fall out on its own. Whoever is interrupted tries again itself, so
    /// that another lane's reads at the same place (where segments meet, within 4 KiB) change nothing.
    attempts: HashMap<(ThreadId, usize, u64), u64>,
}

/// What a read is asked for, but for its room.
#[derive(Clone, Copy)]
struct Asked {
    file: usize,
    offset: u64,
    bytes: u64,
}

impl<'s> FaultStorage<'s> {
    pub fn new(inner: &'s dyn Storage, seed: u64, one_in: u64, faults: &[Fault]) -> FaultStorage<'s> {
        let (reads, state) = (AtomicU64::new(0), Mutex::default());
        FaultStorage { inner, seed, one_in: one_in.max(1), faults: faults.to_vec(), hung: None, reads, state }
    }

    /// The faults so far, in no order that means anything.
    pub fn injected(&self) -> Vec<Injected> {
        self.state().injected.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Random bits for this thread's next read at this place.
    fn dice(&self, asked: Asked) -> u64 {
        let attempt = {
            let mut state = self.state();
            let reads = state.attempts.entry((thread::current().id(), asked.file, asked.offset)).or_default();
            *reads += 1;
            *reads - 1
        };
        let text = [self.seed, asked.file as u64, asked.offset, attempt].map(u64::to_le_bytes);
        crate::os::digest::digest(text.as_flattened()).0
    }

    /// Gives other threads their turns, until some have read or none seems to be there.
    fn stall(&self) {
        let until = self.reads.load(Ordering::Relaxed) + STALL_READS;
        for _ in 0..STALL_TURNS {
            if self.reads.load(Ordering::Relaxed) >= until {
                return;
            }
            thread::yield_now();
        }
    }

    fn read_inner(&self, asked: Asked, room: &mut [u8]) -> io::Result<u64> {
        self.inner.read(asked.file, asked.offset, asked.bytes, room)
    }

    /// Does what `fault` does. Says how many bytes are claimed, and whether the fault could take place.
    fn fail(&self, fault: Fault, dice: u64, asked: Asked, room: &mut [u8]) -> (io::Result<u64>, bool) {
        match fault {
            Fault::Interrupted => (Err(io::ErrorKind::Interrupted.into()), true),
            Fault::InputOutput => (Err(io::Error::from_raw_os_error(libc::EIO)), true),
            Fault::Truncated => (Ok(0), true),
            Fault::Stale => (Ok(asked.bytes), true),
            Fault::Hung => {
                self.hung.inspect(|faults| faults.hang());
                (self.read_inner(asked, room), true)
            }
            Fault::Stalled => {
                self.stall();
                (self.read_inner(asked, room), true)
            }
            Fault::ShortRead => match self.read_inner(asked, room) {
                Ok(n) if n > 1 => {
                    let short = 1 + dice % (n - 1);
                    // Nothing may be left there for a loop that doesn't ask again.
                    room[short as usize..n as usize].iter_mut().for_each(|b| *b = !*b);
                    (Ok(short), true)
                }
                other => (other, false),
            },
            Fault::FlippedBit => match self.read_inner(asked, room) {
                Ok(n) if n > 0 => {
                    let bit = dice % (n * 8);
                    room[(bit / 8) as usize] ^= 1 << (bit % 8);
                    (Ok(n), true)
                }
                other => (other, false),
            },
            Fault::WrongPlace => {
                let distance = 512u64 << (dice % 8);
                let offset = asked.offset.checked_sub(distance).unwrap_or(asked.offset + distance);
                match self.read_inner(Asked { offset, ..asked }, room) {
                    // Past the end of the file there is no other place to read from.
                    Ok(0) => (self.read_inner(asked, room), false),
                    other => (other, true),
                }
            }
        }
    }
}

impl Storage for FaultStorage<'_> {
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
        let asked = Asked { file, offset, bytes };
        self.reads.fetch_add(1, Ordering::Relaxed);
        let dice = self.dice(asked);
        if self.faults.is_empty() || !dice.is_multiple_of(self.one_in) {
            return self.read_inner(asked, room);
        }
        let dice = dice / self.one_in;
        let fault = self.faults[(dice % self.faults.len() as u64) as usize];
        let (result, took_place) = self.fail(fault, dice / self.faults.len() as u64, asked, room);
        if took_place {
            self.state().injected.push(Injected { fault, file, file_offset: offset });
        }
        result
    }

    fn outcome(&self, name: &str) -> PathTaken {
        self.inner.outcome(name)
    }
}

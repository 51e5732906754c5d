//! An attempt's ranges as jobs of the one loop, and the engine for them: read into the pool what it lacks, and deliver each
//! range as soon as it is there, whoever brought it.

use std::io;
use std::marker::PhantomData;

use anyhow::Result;

use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::pool::attempt::{Attempt, Full, Step};
use crate::load::pool::chunk::Chunk;
use crate::load::source::Storage;
use crate::load::transfer::JobSource;
use crate::os::cancel::Cancel;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Where full ranges go.
pub trait Delivery<C: Chunk>: Sync {
    /// A thread's own share, for threads of this lane: streams.
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Deliver<C> + '_>>;
}

/// One thread's end of a delivery.
pub trait Deliver<C: Chunk> {
    /// Brings a range to where it belongs, and returns when it is there. Each comes once to one of a load's threads.
    fn deliver(&mut self, full: &Full<'_, C>) -> io::Result<()>;
}

/// A range to be worked on; gone once it is done.
pub type Turn<'p, C> = Option<Step<'p, C>>;

impl<'p, C: Chunk> JobSource<Turn<'p, C>> for Attempt<'p, C> {
    fn count(&self) -> usize {
        self.left()
    }

    fn next(&self, cancel: &Cancel) -> Result<Option<Job<Turn<'p, C>>>> {
        let job = |step: Step<'p, C>| {
            let spot = match &step {
                Step::Full(full) => full.spot(),
                Step::Claimed(claim) => claim.spot(),
            };
            Job { file: spot.file, file_offset: spot.offset, bytes: spot.bytes, memory: Some(step) }
        };
        Ok(Attempt::next(self, cancel)?.map(job))
    }

    fn stop(&self) {
        Attempt::stop(self);
    }
}

/// Reads from storage into the pool.
pub struct FillEngine<'s, 'p, C: Chunk> {
    storage: &'s dyn Storage,
    delivery: &'s dyn Delivery<C>,
    memory: PhantomData<fn(Turn<'p, C>)>,
}

impl<'s, C: Chunk> FillEngine<'s, '_, C> {
    pub fn new(storage: &'s dyn Storage, delivery: &'s dyn Delivery<C>) -> Self {
        FillEngine { storage, delivery, memory: PhantomData }
    }
}

impl<'p, C: Chunk> Engine for FillEngine<'_, 'p, C> {
    type Memory = Turn<'p, C>;

    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<Turn<'p, C>> + '_>> {
        Ok(Box::new(FillWorker { storage: self.storage, delivery: self.delivery.worker(lane)? }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("pool-fill")
    }
}

struct FillWorker<'s, C: Chunk> {
    storage: &'s dyn Storage,
    delivery: Box<dyn Deliver<C> + 's>,
}

impl<'p, C: Chunk> Worker<Turn<'p, C>> for FillWorker<'_, C> {
    fn read(&mut self, job: &mut Job<Turn<'p, C>>, done: u64) -> io::Result<u64> {
        let left = job.bytes - done;
        let (n, full) = match &mut job.memory {
            Some(Step::Claimed(claim)) => {
                let room =
                    claim.as_mut_slice().get_mut(done as usize..align_up(job.bytes, DIRECT_ALIGN) as usize);
                let room = room.ok_or_else(|| mistake("a chunk is shorter than its range"))?;
                let n = self.storage.read(job.file, job.file_offset + done, left, room)?;
                if n < left {
                    return Ok(n);
                }
                // From here on others copy it, while this thread does.
                (n, claim.complete())
            }
            Some(Step::Full(_)) => (left, None),
            None => return Err(mistake("a range was worked on twice")),
        };
        match (full, job.memory.take()) {
            (Some(full), _) | (None, Some(Step::Full(full))) => self.delivery.deliver(&full)?,
            _ => return Err(mistake("a range was filled twice")),
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn mistake(what: &str) -> io::Error {
    io::Error::other(format!("{what}; please report this"))
}

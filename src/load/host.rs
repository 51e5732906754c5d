//! The engine `host`: storage straight into host memory.

use std::io;
use std::marker::PhantomData;

use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::source::Storage;

/// Fills memory that lives during `'a`.
pub struct HostEngine<'s, 'a> {
    storage: &'s dyn Storage,
    memory: PhantomData<fn(&'a mut [u8])>,
}

impl<'s> HostEngine<'s, '_> {
    pub fn new(storage: &'s dyn Storage) -> Self {
        HostEngine { storage, memory: PhantomData }
    }
}

impl<'a> Engine for HostEngine<'_, 'a> {
    /// As long as the job's bytes, rounded up to 4 KiB.
    type Memory = &'a mut [u8];

    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<&'a mut [u8]> + '_>> {
        Ok(Box::new(HostWorker(self.storage)))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("host")
    }
}

struct HostWorker<'s>(&'s dyn Storage);

impl Worker<&mut [u8]> for HostWorker<'_> {
    fn read(&mut self, job: &mut Job<&mut [u8]>, done: u64) -> io::Result<u64> {
        let room = &mut job.memory[done as usize..];
        self.0.read(job.file, job.file_offset + done, job.bytes - done, room)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

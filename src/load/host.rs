//! The engine `host`: storage straight into host memory.

use std::io;
use std::marker::PhantomData;

use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::jobs::Scattered;
use crate::load::source::Storage;
use crate::os::memory::HostBuffer;

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

/// Reads into a buffer of the thread's own, and copies its pieces to where they belong: for what has other distances there
/// than in the file, and for memory that direct reads can't fill.
pub struct ScatterEngine<'s, 'a> {
    storage: &'s dyn Storage,
    chunk_bytes: u64,
    memory: PhantomData<fn(Scattered<'a>)>,
}

impl<'s> ScatterEngine<'s, '_> {
    /// For jobs of up to `chunk_bytes`.
    pub fn new(storage: &'s dyn Storage, chunk_bytes: u64) -> Self {
        ScatterEngine { storage, chunk_bytes, memory: PhantomData }
    }
}

impl<'a> Engine for ScatterEngine<'_, 'a> {
    type Memory = Scattered<'a>;

    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<Scattered<'a>> + '_>> {
        let buffer = HostBuffer::new(self.chunk_bytes).map_err(io::Error::other)?;
        Ok(Box::new(ScatterWorker { storage: self.storage, buffer }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("host")
    }
}

struct ScatterWorker<'s> {
    storage: &'s dyn Storage,
    buffer: HostBuffer,
}

impl<'a> Worker<Scattered<'a>> for ScatterWorker<'_> {
    fn read(&mut self, job: &mut Job<Scattered<'a>>, done: u64) -> io::Result<u64> {
        let left = job.bytes - done;
        let room = &mut self.buffer.as_mut_slice()[done as usize..];
        let n = self.storage.read(job.file, job.file_offset + done, left, room)?;
        if n == left {
            let read = &self.buffer.as_slice()[..job.bytes as usize];
            for (piece, memory) in &mut job.memory {
                let rows = memory.chunks_exact_mut(piece.bytes.max(1) as usize);
                for (row, to) in (0..piece.rows).zip(rows) {
                    let from = (piece.from + row * piece.from_stride) as usize;
                    to.copy_from_slice(&read[from..from + to.len()]);
                }
            }
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

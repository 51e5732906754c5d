//! The engine `host`: storage straight into host memory.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::jobs::Scattered;
use crate::load::source::Storage;
use crate::os::memory::{HostBuffer, bring_in};

/// How long the threads of a load were at bringing pages in, and at reading.
#[derive(Default)]
pub struct PageIns {
    bringing_in_ns: AtomicU64,
    reading_ns: AtomicU64,
}

impl PageIns {
    fn bring_in(&self, memory: &mut [u8]) {
        PageIns::count(&self.bringing_in_ns, || bring_in(memory));
    }

    fn count<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        counter.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }

    /// Of both together, the share of bringing pages in.
    pub fn share(&self) -> f64 {
        let seconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let (bringing_in, reading) = (seconds(&self.bringing_in_ns), seconds(&self.reading_ns));
        if bringing_in > 0.0 { bringing_in / (bringing_in + reading) } else { 0.0 }
    }
}

/// Fills new memory that lives during `'a`.
pub struct HostEngine<'s, 'a> {
    storage: &'s dyn Storage,
    page_ins: &'s PageIns,
    memory: PhantomData<fn(&'a mut [u8])>,
}

impl<'s> HostEngine<'s, '_> {
    pub fn new(storage: &'s dyn Storage, page_ins: &'s PageIns) -> Self {
        HostEngine { storage, page_ins, memory: PhantomData }
    }
}

impl<'a> Engine for HostEngine<'_, 'a> {
    /// As long as the job's bytes, rounded up to 4 KiB.
    type Memory = &'a mut [u8];

    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<&'a mut [u8]> + '_>> {
        Ok(Box::new(HostWorker { storage: self.storage, page_ins: self.page_ins }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("host")
    }
}

struct HostWorker<'s> {
    storage: &'s dyn Storage,
    page_ins: &'s PageIns,
}

impl Worker<&mut [u8]> for HostWorker<'_> {
    fn read(&mut self, job: &mut Job<&mut [u8]>, done: u64) -> io::Result<u64> {
        if done == 0 {
            self.page_ins.bring_in(job.memory);
        }
        let room = &mut job.memory[done as usize..];
        let read = || self.storage.read(job.file, job.file_offset + done, job.bytes - done, room);
        PageIns::count(&self.page_ins.reading_ns, read)
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
    page_ins: Option<&'s PageIns>,
    memory: PhantomData<fn(Scattered<'a>)>,
}

impl<'s> ScatterEngine<'s, '_> {
    /// For jobs of up to `chunk_bytes`. The caller's memory has no page-ins.
    pub fn new(storage: &'s dyn Storage, chunk_bytes: u64, page_ins: Option<&'s PageIns>) -> Self {
        ScatterEngine { storage, chunk_bytes, page_ins, memory: PhantomData }
    }
}

impl<'a> Engine for ScatterEngine<'_, 'a> {
    type Memory = Scattered<'a>;

    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<Scattered<'a>> + '_>> {
        let buffer = HostBuffer::new(self.chunk_bytes).map_err(io::Error::other)?;
        Ok(Box::new(ScatterWorker { storage: self.storage, page_ins: self.page_ins, buffer }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("host")
    }
}

struct ScatterWorker<'s> {
    storage: &'s dyn Storage,
    page_ins: Option<&'s PageIns>,
    buffer: HostBuffer,
}

impl<'a> Worker<Scattered<'a>> for ScatterWorker<'_> {
    fn read(&mut self, job: &mut Job<Scattered<'a>>, done: u64) -> io::Result<u64> {
        let left = job.bytes - done;
        let room = &mut self.buffer.as_mut_slice()[done as usize..];
        let unseen = PageIns::default();
        let page_ins = self.page_ins.unwrap_or(&unseen);
        let read = || self.storage.read(job.file, job.file_offset + done, left, room);
        let n = PageIns::count(&page_ins.reading_ns, read)?;
        if n == left {
            if self.page_ins.is_some() {
                job.memory.iter_mut().for_each(|(_, memory)| page_ins.bring_in(memory));
            }
            PageIns::count(&page_ins.reading_ns, || {
                scatter(&self.buffer.as_slice()[..job.bytes as usize], &mut job.memory)
            });
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies the pieces of what was read to where they belong.
pub(super) fn scatter(read: &[u8], pieces: &mut Scattered<'_>) {
    for (piece, memory) in pieces {
        let rows = memory.chunks_exact_mut(piece.bytes.max(1) as usize);
        for (row, to) in (0..piece.rows).zip(rows) {
            let from = (piece.from + row * piece.from_stride) as usize;
            to.copy_from_slice(&read[from..from + to.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_page_ins_is_of_all_that_threads_did() {
        let of = |bringing_in, reading| {
            PageIns { bringing_in_ns: AtomicU64::new(bringing_in), reading_ns: AtomicU64::new(reading) }
                .share()
        };
        assert_eq!((of(0, 0), of(0, 7), of(1, 3), of(5, 0)), (0.0, 0.0, 0.25, 1.0));
        let page_ins = PageIns::default();
        let mut memory = vec![7u8; 2 * 4096 + 1];
        page_ins.bring_in(&mut memory);
        assert!(page_ins.bringing_in_ns.into_inner() > 0);
        let zeros: Vec<usize> = (0..memory.len()).filter(|i| memory[*i] == 0).collect();
        assert_eq!(zeros, [0, 4096, 8192]);
    }
}

//! The engine `pinned`: storage → pinned ring → GPU memory, all three overlapped.
//!
//! Each reader thread owns a few slots of pinned memory and one stream a GPU. It fills a slot, queues one
//! asynchronous copy, and goes on with its next slot, which it waits for only if that slot's last copy has
//! not ended. No copy a tensor, no stream synchronisation in the loop.

use std::io;
use std::sync::{Arc, Mutex};

use super::Options;
use super::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use super::source::Sources;
use crate::gpu::memory::{Slot, Stream, pin};
use crate::gpu::{Gpu, GpuError};
use crate::sys;

/// What one reader thread works with.
struct Kit {
    slots: Vec<Slot>,
    /// One a GPU of the lane.
    streams: Vec<Stream>,
}

/// The kits of all reader threads, by lane.
pub struct Ring {
    lanes: Vec<Mutex<Vec<Kit>>>,
    /// Pinned bytes over all lanes.
    pub bytes: u64,
}

impl Ring {
    /// Pins the slots of each lane on the NUMA node of its GPU, lanes side by side, and makes the streams.
    pub fn new(lanes: &[Vec<Arc<Gpu>>], options: &Options) -> Result<Ring, GpuError> {
        let made: Vec<Result<Vec<Kit>, GpuError>> = std::thread::scope(|scope| {
            let started: Vec<_> = lanes.iter().map(|gpus| scope.spawn(|| kits(gpus, options))).collect();
            started
                .into_iter()
                .map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let lanes = made.into_iter().map(|lane| lane.map(Mutex::new)).collect::<Result<Vec<_>, _>>()?;
        let slots = lanes.len() * options.threads * options.depth;
        Ok(Ring { lanes, bytes: slots as u64 * options.chunk_bytes })
    }
}

fn kits(gpus: &[Arc<Gpu>], options: &Options) -> Result<Vec<Kit>, GpuError> {
    sys::run_near(gpus[0].numa_node);
    let pieces = pin(&gpus[0], options.chunk_bytes, options.threads * options.depth, options.threads)?;
    let mut pieces = pieces.into_iter();
    let kit = |_| {
        let slots =
            pieces.by_ref().take(options.depth).map(|p| Slot::new(gpus, p)).collect::<Result<_, _>>()?;
        let streams = gpus.iter().map(Stream::new).collect::<Result<_, _>>()?;
        Ok(Kit { slots, streams })
    };
    (0..options.threads).map(kit).collect()
}

pub struct PinnedEngine {
    sources: Sources,
    lanes: Vec<Vec<Arc<Gpu>>>,
    ring: Ring,
}

impl PinnedEngine {
    /// `lanes` are those that the ring was made for.
    pub fn new(sources: Sources, lanes: Vec<Vec<Arc<Gpu>>>, ring: Ring) -> PinnedEngine {
        PinnedEngine { sources, lanes, ring }
    }

    /// Bytes of pinned memory.
    pub fn staging_bytes(&self) -> u64 {
        self.ring.bytes
    }
}

impl Engine for PinnedEngine {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        sys::run_near(self.lanes[lane][0].numa_node);
        let kits = &self.ring.lanes[lane];
        let kit = kits.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let kit = kit.ok_or_else(|| io::Error::other("more reader threads than kits; please report this"))?;
        Ok(Box::new(PinnedWorker { sources: &self.sources, kits, kit: Some(kit), next: 0 }))
    }

    fn outcome(&self) -> PathTaken {
        self.sources.outcome("pinned")
    }
}

struct PinnedWorker<'a> {
    sources: &'a Sources,
    kits: &'a Mutex<Vec<Kit>>,
    /// Gone only after Drop.
    kit: Option<Kit>,
    next: usize,
}

impl Worker for PinnedWorker<'_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        let (Target::Devices(targets), Some(kit)) = (&job.target, &mut self.kit) else {
            return Err(wrong_target("pinned"));
        };
        let slot = &mut kit.slots[self.next];
        let room = slot.room().map_err(io::Error::other)?;
        let bytes = (job.bytes - done).min(room.len() as u64);
        let room_bytes = sys::align_up(bytes, sys::DIRECT_ALIGN) as usize;
        let n = self.sources.read(job.file, job.file_offset + done, bytes, &mut room[..room_bytes])?;
        if n > 0 {
            slot.copy_to(&kit.streams, targets, done, n as usize).map_err(io::Error::other)?;
            self.next = (self.next + 1) % kit.slots.len();
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        let streams = self.kit.iter().flat_map(|kit| &kit.streams);
        streams.into_iter().try_for_each(Stream::synchronize).map_err(io::Error::other)
    }
}

impl Drop for PinnedWorker<'_> {
    /// Gives the kit back: taking it apart would count as part of the load. Copies that still run after a
    /// failure are waited for when the ring goes, before the memory that they read and write.
    fn drop(&mut self) {
        self.kits.lock().unwrap_or_else(|e| e.into_inner()).extend(self.kit.take());
    }
}

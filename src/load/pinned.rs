//! The engine `pinned`: storage → pinned ring → GPU memory, all three overlapped.
//!
//! Each reader thread owns a few slots of pinned memory and one stream a GPU. It fills a slot, queues one
//! asynchronous copy, and goes on with its next slot, which it waits for only if that slot's last copy has
//! not ended. No copy a tensor, no stream synchronisation in the loop.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::Options;
use super::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use super::source::Sources;
use crate::gpu::memory::{Slot, Stream, check_room, pin};
use crate::gpu::{Gpu, GpuError};
use crate::sys;

/// What one reader thread works with.
struct Kit {
    slots: Vec<Slot>,
    /// One a GPU of the lane.
    streams: Vec<Stream>,
}

/// The kits of all reader threads, by lane. They come one batch after the other, so that the first threads
/// read while the memory of the others is still being pinned.
pub struct Ring {
    lanes: Vec<Lane>,
    options: Options,
}

struct Lane {
    gpus: Vec<Arc<Gpu>>,
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    kits: Vec<Kit>,
    failed: Option<GpuError>,
    ended: bool,
}

/// Batches that a lane's kits are pinned in.
const BATCHES: usize = 4;

impl Ring {
    /// An empty ring for these lanes, each the GPUs that get the same bytes.
    pub fn new(lanes: Vec<Vec<Arc<Gpu>>>, options: &Options) -> Ring {
        let lane = |gpus| Lane { gpus, state: Mutex::default(), changed: Condvar::new() };
        Ring { lanes: lanes.into_iter().map(lane).collect(), options: options.clone() }
    }

    /// Pins everything: on the NUMA node of each lane's GPU, lanes side by side. Call it on a thread of its own;
    /// a failure is told to whoever waits for a kit.
    pub fn fill(&self) {
        let bytes = self.bytes();
        std::thread::scope(|scope| {
            for lane in &self.lanes {
                scope.spawn(move || lane.fill(&self.options, bytes));
            }
        });
    }

    /// Waits until the first thread of each lane can begin.
    pub fn wait_for_first(&self) -> Result<(), GpuError> {
        self.lanes.iter().try_for_each(|lane| {
            let kit = lane.take()?;
            lane.give_back(kit);
            Ok(())
        })
    }

    /// Waits until everything is pinned: before the clock stands still for poisoning, which would hide the rest.
    pub fn wait_for_all(&self) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            while !state.ended {
                state = lane.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
        }
    }

    /// Pinned bytes over all lanes.
    pub fn bytes(&self) -> u64 {
        let slots = self.lanes.len() * self.options.threads * self.options.depth;
        (slots as u64).saturating_mul(self.options.chunk_bytes)
    }
}

impl Lane {
    fn fill(&self, options: &Options, ring_bytes: u64) {
        let _ended = Ended(self);
        let result = check_room(&self.gpus[0], ring_bytes).and_then(|()| self.fill_batches(options));
        self.lock().failed = result.err();
    }

    fn fill_batches(&self, options: &Options) -> Result<(), GpuError> {
        sys::run_near(self.gpus[0].numa_node);
        let mut left = options.threads;
        while left > 0 {
            let batch = left.min(options.threads.div_ceil(BATCHES));
            kits(&self.gpus, options, batch)?.into_iter().for_each(|kit| self.give_back(kit));
            left -= batch;
        }
        Ok(())
    }

    /// A kit, as soon as there is one.
    fn take(&self) -> Result<Kit, GpuError> {
        let mut state = self.lock();
        loop {
            if let Some(kit) = state.kits.pop() {
                return Ok(kit);
            }
            if state.ended {
                let gpu = &self.gpus[0];
                return Err(state.failed.clone().unwrap_or_else(|| gpu.error("take a kit", "none is left")));
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn give_back(&self, kit: Kit) {
        self.lock().kits.push(kit);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Tells those who wait that no more kits come, also when the thread that makes them panics.
struct Ended<'a>(&'a Lane);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

fn kits(gpus: &[Arc<Gpu>], options: &Options, count: usize) -> Result<Vec<Kit>, GpuError> {
    let mut pieces = pin(&gpus[0], options.chunk_bytes, count * options.depth, count)?.into_iter();
    let kit = |_| {
        let slots =
            pieces.by_ref().take(options.depth).map(|p| Slot::new(gpus, p)).collect::<Result<_, _>>()?;
        let streams = gpus.iter().map(Stream::new).collect::<Result<_, _>>()?;
        Ok(Kit { slots, streams })
    };
    (0..count).map(kit).collect()
}

pub struct PinnedEngine<'r> {
    sources: Sources,
    ring: &'r Ring,
}

impl<'r> PinnedEngine<'r> {
    pub fn new(sources: Sources, ring: &'r Ring) -> PinnedEngine<'r> {
        PinnedEngine { sources, ring }
    }
}

impl Engine for PinnedEngine<'_> {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        let lane = &self.ring.lanes[lane];
        sys::run_near(lane.gpus[0].numa_node);
        let kit = lane.take().map_err(io::Error::other)?;
        Ok(Box::new(PinnedWorker { sources: &self.sources, lane, kit: Some(kit), next: 0 }))
    }

    fn outcome(&self) -> PathTaken {
        self.sources.outcome("pinned")
    }
}

struct PinnedWorker<'a> {
    sources: &'a Sources,
    lane: &'a Lane,
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
    /// Gives the kit back: taking it apart would count as part of the load. After a failure copies may still be
    /// under way; they end here, while their targets are borrowed.
    fn drop(&mut self) {
        if let Some(kit) = self.kit.take() {
            for stream in &kit.streams {
                let _ = stream.synchronize();
            }
            self.lane.give_back(kit);
        }
    }
}

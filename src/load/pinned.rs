//! The engine `pinned`: storage → pinned ring → GPU memory, all three overlapped.
//!
//! The reader threads of a lane share one ring of pinned slots. A thread takes a slot that no copy reads any more,
//! fills it, queues one asynchronous copy on a stream of its own, and hands the slot back with the event that tells
//! its end. Few slots, so that the copies find them in the processor's cache; more than threads, so that none waits.
//! No copy a tensor, no stream synchronisation in the loop.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::Options;
use super::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use super::source::Sources;
use crate::gpu::memory::{Slot, Stream, check_room, pin};
use crate::gpu::{Gpu, GpuError};
use crate::sys;

/// The slots of all lanes. They come batch after batch, so that the first threads read while the memory for the
/// others is still being pinned.
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
    /// Never used, or given back by a read that queued nothing. The last one in is the warmest.
    free: Vec<Slot>,
    /// Their copies were queued in this order.
    copying: VecDeque<Slot>,
    /// One a GPU of the lane in each; a reader thread takes one set and gives it back.
    streams: Vec<Vec<Stream>>,
    failed: Option<GpuError>,
    filling: Filling,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Filling {
    #[default]
    Goes,
    /// Asked to stand still before its next batch.
    Held,
    /// Stands still.
    Stands,
    Ended,
}

/// Batches that a lane's slots are pinned in.
const BATCHES: usize = 4;

impl Ring {
    /// An empty ring for these lanes, each the GPUs that get the same bytes.
    pub fn new(lanes: Vec<Vec<Arc<Gpu>>>, options: &Options) -> Ring {
        let lane = |gpus| Lane { gpus, state: Mutex::default(), changed: Condvar::new() };
        Ring { lanes: lanes.into_iter().map(lane).collect(), options: options.clone() }
    }

    /// Pins everything: on the NUMA node of each lane's GPU, lanes side by side. Call it on a thread of its own;
    /// a failure is told to whoever waits for a slot.
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
        self.lanes.iter().try_for_each(|lane| lane.take_slot().map(drop))
    }

    /// Lets pinning stand still, between two batches, while `other` runs: what must not count as part of a load must
    /// not hide a part of it either.
    pub fn while_held<T>(&self, other: impl FnOnce() -> T) -> T {
        self.lanes.iter().for_each(Lane::hold);
        let result = other();
        self.lanes.iter().for_each(Lane::go_on);
        result
    }

    /// Pinned bytes over all lanes.
    pub fn bytes(&self) -> u64 {
        let slots = self.lanes.len() * self.options.slots;
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
        let (mut slots_left, mut streams_left) = (options.slots, options.threads);
        for batches_left in (1..=BATCHES).rev() {
            let slots = slots_left.div_ceil(batches_left);
            let streams = streams_left.div_ceil(batches_left);
            (slots_left, streams_left) = (slots_left - slots, streams_left - streams);
            self.stand_still_if_held();
            self.fill_batch(options.chunk_bytes, slots, streams)?;
        }
        Ok(())
    }

    fn fill_batch(&self, chunk_bytes: u64, slots: usize, streams: usize) -> Result<(), GpuError> {
        let set = |_| self.gpus.iter().map(Stream::new).collect::<Result<Vec<_>, _>>();
        let sets = (0..streams).map(set).collect::<Result<Vec<_>, _>>()?;
        let pieces = if slots > 0 { pin(&self.gpus[0], chunk_bytes, slots, slots)? } else { Vec::new() };
        let slots = pieces.into_iter().map(|p| Slot::new(&self.gpus, p)).collect::<Result<Vec<_>, _>>()?;
        let mut state = self.lock();
        state.streams.extend(sets);
        state.free.extend(slots);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn stand_still_if_held(&self) {
        let mut state = self.lock();
        if state.filling == Filling::Held {
            state.filling = Filling::Stands;
            self.changed.notify_all();
        }
        while state.filling == Filling::Stands {
            state = self.wait(state);
        }
    }

    fn hold(&self) {
        let mut state = self.lock();
        if state.filling == Filling::Goes {
            state.filling = Filling::Held;
        }
        while state.filling == Filling::Held {
            state = self.wait(state);
        }
    }

    fn go_on(&self) {
        let mut state = self.lock();
        if state.filling != Filling::Ended {
            state.filling = Filling::Goes;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A slot for one read: a free one, else the one whose copy was queued first. Its copy may not have ended yet:
    /// [`Slot::room`] waits for that, outside the lock.
    fn take_slot(&self) -> Result<Lent<'_>, GpuError> {
        let mut state = self.lock();
        loop {
            if let Some(slot) = state.free.pop().or_else(|| state.copying.pop_front()) {
                return Ok(Lent { lane: self, slot: Some(slot) });
            }
            // When pinning has failed what there is must do, but somebody has to be told.
            if let Some(error) = state.failed.clone() {
                return Err(error);
            }
            state = self.wait(state);
        }
    }

    fn take_streams(&self) -> Result<Vec<Stream>, GpuError> {
        let mut state = self.lock();
        loop {
            if let Some(streams) = state.streams.pop() {
                return Ok(streams);
            }
            if state.filling == Filling::Ended {
                let none = || self.gpus[0].error("take a stream", "none is left; please report this");
                return Err(state.failed.clone().unwrap_or_else(none));
            }
            state = self.wait(state);
        }
    }

    fn give_streams_back(&self, streams: Vec<Stream>) {
        self.lock().streams.push(streams);
        self.changed.notify_one();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, LaneState>) -> MutexGuard<'a, LaneState> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A slot in use. It goes back by itself, whatever happens to the read: others may wait for it.
struct Lent<'a> {
    lane: &'a Lane,
    /// Gone only after Drop.
    slot: Option<Slot>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let mut state = self.lane.lock();
            match slot.is_copying() {
                true => state.copying.push_back(slot),
                false => state.free.push(slot),
            }
            drop(state);
            self.lane.changed.notify_one();
        }
    }
}

/// Tells those who wait that no more slots come, also when the thread that makes them panics.
struct Ended<'a>(&'a Lane);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.filling = Filling::Ended;
        if std::thread::panicking() {
            state.failed = Some(self.0.gpus[0].error("pin memory", "a panic; please report this"));
        }
        drop(state);
        self.0.changed.notify_all();
    }
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
        let streams = lane.take_streams().map_err(io::Error::other)?;
        Ok(Box::new(PinnedWorker { sources: &self.sources, lane, streams }))
    }

    fn outcome(&self) -> PathTaken {
        self.sources.outcome("pinned")
    }
}

struct PinnedWorker<'a> {
    sources: &'a Sources,
    lane: &'a Lane,
    streams: Vec<Stream>,
}

impl Worker for PinnedWorker<'_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        let Target::Devices(targets) = &job.target else { return Err(wrong_target("pinned")) };
        let mut lent = self.lane.take_slot().map_err(io::Error::other)?;
        let Some(slot) = &mut lent.slot else { return Err(wrong_target("pinned")) };
        let room = slot.room().map_err(io::Error::other)?;
        let bytes = (job.bytes - done).min(room.len() as u64);
        let room_bytes = sys::align_up(bytes, sys::DIRECT_ALIGN) as usize;
        let n = self.sources.read(job.file, job.file_offset + done, bytes, &mut room[..room_bytes])?;
        if n > 0 {
            slot.copy_to(&self.streams, targets, done, n as usize).map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.streams.iter().try_for_each(Stream::synchronize).map_err(io::Error::other)
    }
}

impl Drop for PinnedWorker<'_> {
    /// Gives the streams back: taking them apart would count as part of the load. After a failure copies may still
    /// be under way; they end here, while their targets are borrowed.
    fn drop(&mut self) {
        for stream in &self.streams {
            let _ = stream.synchronize();
        }
        self.lane.give_streams_back(std::mem::take(&mut self.streams));
    }
}

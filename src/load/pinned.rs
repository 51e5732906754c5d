//! The engine `pinned`: storage → pinned ring → GPU memory, all three overlapped.
//!
//! The reader threads of a lane share one ring of pinned slots. Several threads fill a slot that no copy reads any
//! more, a part each; the last one queues one asynchronous copy of all of it on the lane's stream, and gives the slot
//! back with the event that tells its end. One stream, so that copies end in the order in which slots are taken again: with
//! several, loads took 2 to 5 % longer (`benchmarks/streams.cu`).
//! Few slots, so that the copies find them in the processor's cache; long ones, since each copy costs some 3 µs beside
//! its bytes. No copy a tensor, no stream synchronisation in the loop.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Scope;

use crate::gpu::copies::Stream;
use crate::gpu::memory::{Pinned, check_room, pin};
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::slot::Slot;
use crate::gpu::{Gpu, GpuError};
use crate::load::batch::{self, Buffers};
use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::jobs::Landing;
use crate::load::options::Options;
use crate::load::prepare::each_once;
use crate::load::source::Storage;
use crate::os::sys;
use crate::os::threads::{self, NoThread};

/// The slots of all lanes. They come batch after batch, so that the first threads read while the memory for the
/// others is still being pinned.
pub struct Ring {
    lanes: Vec<Lane>,
    options: Options,
}

struct Lane {
    /// Those that its copies may go to, each once; memory is pinned near the first.
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
    /// One for each GPU of the lane, which all threads queue their copies on. Absent until pinning begins.
    streams: Option<Arc<[Stream]>>,
    failed: Option<GpuError>,
    filling: Filling,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Filling {
    #[default]
    Goes,
    /// Stands still after the first batch.
    Held,
    Ended,
}

/// Batches that a lane's slots are pinned in.
const BATCHES: usize = 4;

impl Ring {
    /// An empty ring for these lanes, each the GPUs that get the same bytes.
    pub fn new(lanes: Vec<Vec<Arc<Gpu>>>, options: &Options) -> Ring {
        let lane = |gpus: Vec<Arc<Gpu>>| Lane {
            gpus: each_once(&gpus),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Ring { lanes: lanes.into_iter().map(lane).collect(), options: options.clone() }
    }

    /// Whether it serves a load to these lanes as it is.
    pub fn fits(&self, lanes: &[Vec<Arc<Gpu>>], options: &Options) -> bool {
        let same = |(lane, gpus): (&Lane, &Vec<Arc<Gpu>>)| {
            lane.gpus.iter().map(|gpu| gpu.index).eq(each_once(gpus).iter().map(|gpu| gpu.index))
        };
        let sizes = |o: &Options| (o.chunk_bytes, o.copy_bytes, o.slots);
        self.lanes.len() == lanes.len()
            && self.lanes.iter().zip(lanes).all(same)
            && sizes(&self.options) == sizes(options)
    }

    /// Whether all its memory is pinned, and nothing went wrong with it.
    pub fn is_filled(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let state = lane.lock();
            state.filling == Filling::Ended && state.failed.is_none()
        })
    }

    /// Begins to pin everything: on the NUMA node of each lane's GPU, a thread of `scope` for each lane. A failure is told to
    /// whoever waits for a slot.
    pub fn fill<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<(), NoThread> {
        let bytes = self.bytes();
        self.lanes
            .iter()
            .try_for_each(|lane| threads::start(scope, move || lane.fill(&self.options, bytes)).map(drop))
    }

    /// Waits until the first threads of each lane can begin.
    pub fn wait_for_first(&self) -> Result<(), GpuError> {
        self.lanes.iter().try_for_each(|lane| lane.take_slot().map(drop))
    }

    /// Lets pinning stand still after the first batch, until what is returned drops. For what is not on a load's clock:
    /// it must not hide a part of what is.
    pub fn hold(&self) -> Hold<'_> {
        for lane in &self.lanes {
            let mut state = lane.lock();
            if state.filling == Filling::Goes {
                state.filling = Filling::Held;
            }
        }
        Hold(self)
    }

    /// Pinned bytes over all lanes.
    pub fn bytes(&self) -> u64 {
        let slots = self.lanes.len() * self.options.slots;
        (slots as u64).saturating_mul(self.options.copy_bytes)
    }
}

/// Pinning stands still.
pub struct Hold<'a>(&'a Ring);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for lane in &self.0.lanes {
            let mut state = lane.lock();
            if state.filling == Filling::Held {
                state.filling = Filling::Goes;
            }
            drop(state);
            lane.changed.notify_all();
        }
    }
}

impl Lane {
    fn fill(&self, options: &Options, ring_bytes: u64) {
        let _ended = Ended(self);
        let result = check_room(&self.gpus[0], ring_bytes).and_then(|()| self.fill_batches(options));
        if let Err(error) = result {
            self.lock().failed = Some(error);
        }
    }

    fn fill_batches(&self, options: &Options) -> Result<(), GpuError> {
        sys::run_near(self.gpus[0].numa_node);
        let streams = self.gpus.iter().map(Stream::new).collect::<Result<Arc<[_]>, _>>()?;
        self.lock().streams = Some(streams);
        self.changed.notify_all();
        let mut slots_left = options.slots;
        for batches_left in (1..=BATCHES).rev() {
            let slots = slots_left.div_ceil(batches_left);
            slots_left -= slots;
            self.fill_batch(options, slots)?;
            let mut state = self.lock();
            while state.filling == Filling::Held {
                state = self.wait(state);
            }
        }
        Ok(())
    }

    fn fill_batch(&self, options: &Options, slots: usize) -> Result<(), GpuError> {
        // A thread a chunk brings the pages in.
        let threads = slots.saturating_mul((options.copy_bytes / options.chunk_bytes.max(1)) as usize);
        let pieces = match slots {
            0 => Vec::new(),
            _ => pin(&self.gpus[0], options.copy_bytes, slots, threads)?,
        };
        let slots = pieces.into_iter().map(|p| Slot::new(&self.gpus, p)).collect::<Result<Vec<_>, _>>()?;
        self.lock().free.extend(slots);
        self.changed.notify_all();
        Ok(())
    }

    /// A slot for one copy: a free one, else the one whose copy was queued first. That may not have ended yet:
    /// [`Slot::acquire`] waits for it, outside the lock.
    fn take_slot(&self) -> Result<Acquired<'_>, GpuError> {
        let mut state = self.lock();
        loop {
            // Also where there are slots: whether a load fails must not hang on who comes first.
            if let Some(error) = state.failed.clone() {
                return Err(error);
            }
            if let Some(slot) = state.free.pop().or_else(|| state.copying.pop_front()) {
                return Ok(Acquired { lane: self, slot: Some(slot) });
            }
            state = self.wait(state);
        }
    }

    fn streams(&self) -> Result<Arc<[Stream]>, GpuError> {
        let mut state = self.lock();
        loop {
            if let Some(streams) = &state.streams {
                return Ok(streams.clone());
            }
            if state.filling == Filling::Ended {
                let none = || self.gpus[0].error("make a stream", "none was made; please report this");
                return Err(state.failed.clone().unwrap_or_else(none));
            }
            state = self.wait(state);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, LaneState>) -> MutexGuard<'a, LaneState> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A slot in use. It goes back by itself, whatever happens to the reads: others may wait for it.
pub struct Acquired<'a> {
    lane: &'a Lane,
    /// Gone only after Drop.
    slot: Option<Slot>,
}

impl Acquired<'_> {
    fn slot(&mut self) -> io::Result<&mut Slot> {
        self.slot
            .as_mut()
            .ok_or_else(|| io::Error::other("a slot was used after it went back; please report this"))
    }
}

impl Drop for Acquired<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let mut state = self.lane.lock();
            match (slot.is_out(), slot.is_copying()) {
                // Who waits for it must not wait for ever.
                (true, _) => {
                    state.failed =
                        Some(self.lane.gpus[0].error("use the ring", "a slot was lost; please report this"))
                }
                (false, true) => state.copying.push_back(slot),
                (false, false) => state.free.push(slot),
            }
            drop(state);
            self.lane.changed.notify_all();
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

/// One copy of up to a slot's bytes, to the places of its pieces.
pub struct Copying<'a> {
    lane: &'a Lane,
    targets: Arc<Targets<'a>>,
    pieces: Vec<Piece>,
    bytes: u64,
}

impl<'a> Buffers for Copying<'a> {
    type Slot = Acquired<'a>;
    type Piece = Pinned;

    fn acquire(&self, sizes: &[usize]) -> io::Result<(Acquired<'a>, Vec<Pinned>)> {
        let mut acquired = self.lane.take_slot().map_err(io::Error::other)?;
        let pieces = acquired.slot()?.acquire(sizes).map_err(io::Error::other)?;
        Ok((acquired, pieces))
    }

    fn join(&self, mut acquired: Acquired<'a>, pieces: Vec<Pinned>) -> io::Result<Acquired<'a>> {
        acquired.slot()?.release(pieces).map_err(io::Error::other)?;
        Ok(acquired)
    }
}

/// Cuts jobs of up to a copy's bytes into parts of a chunk each, which any threads of the lane may read. There are as many
/// lanes as the ring has.
pub fn in_sub_chunks<'a>(ring: &'a Ring, lanes: Vec<Vec<Job<Landing<'a>>>>) -> Vec<Vec<Job<SubChunk<'a>>>> {
    let chunk_bytes = ring.options.chunk_bytes;
    let cut = |(lane, jobs): (&'a Lane, Vec<Job<Landing<'a>>>)| -> Vec<Job<SubChunk<'a>>> {
        jobs.into_iter().flat_map(|job| sub_chunks_of(job, lane, chunk_bytes)).collect()
    };
    ring.lanes.iter().zip(lanes).map(cut).collect()
}

/// What a reader of the ring fills.
pub type SubChunk<'a> = batch::SubChunk<Copying<'a>>;

fn sub_chunks_of<'a>(job: Job<Landing<'a>>, lane: &'a Lane, chunk_bytes: u64) -> Vec<Job<SubChunk<'a>>> {
    let Landing { targets, pieces } = job.memory;
    let chunk_bytes = sys::align_up(chunk_bytes.max(1), sys::DIRECT_ALIGN);
    let starts = || (0..job.bytes.div_ceil(chunk_bytes)).map(|i| i * chunk_bytes);
    let bytes_from = |start: u64| chunk_bytes.min(job.bytes - start);
    let sizes = starts().map(|start| sys::align_up(bytes_from(start), sys::DIRECT_ALIGN) as usize).collect();
    let parts = batch::sub_chunks(Copying { lane, targets, pieces, bytes: job.bytes }, sizes);
    let job_of = |(start, chunk)| Job {
        file: job.file,
        file_offset: job.file_offset + start,
        bytes: bytes_from(start),
        memory: chunk,
    };
    starts().zip(parts).map(job_of).collect()
}

/// Reads jobs that [`in_sub_chunks`] has cut.
pub struct PinnedEngine<'r, 'a> {
    storage: &'r dyn Storage,
    ring: &'r Ring,
    memory: PhantomData<fn(SubChunk<'a>)>,
}

impl<'r> PinnedEngine<'r, '_> {
    pub fn new(storage: &'r dyn Storage, ring: &'r Ring) -> Self {
        PinnedEngine { storage, ring, memory: PhantomData }
    }
}

impl<'a> Engine for PinnedEngine<'_, 'a> {
    type Memory = SubChunk<'a>;

    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<SubChunk<'a>> + '_>> {
        let lane = &self.ring.lanes[lane];
        sys::run_near(lane.gpus[0].numa_node);
        let streams = lane.streams().map_err(io::Error::other)?;
        Ok(Box::new(PinnedWorker { storage: self.storage, streams }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("pinned")
    }
}

struct PinnedWorker<'a> {
    storage: &'a dyn Storage,
    streams: Arc<[Stream]>,
}

impl<'a> Worker<SubChunk<'a>> for PinnedWorker<'_> {
    fn read(&mut self, job: &mut Job<SubChunk<'a>>, done: u64) -> io::Result<u64> {
        let chunk = &mut job.memory;
        let left = job.bytes - done;
        let room = &mut chunk.piece()?.as_mut_slice()[done as usize..];
        let n = self.storage.read(job.file, job.file_offset + done, left, room)?;
        if n == left
            && let Some(mut whole) = chunk.complete()?
        {
            let Copying { targets, pieces, bytes, .. } = chunk.buffers();
            whole
                .slot()?
                .copy_to(&self.streams, targets, pieces, *bytes as usize)
                .map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.streams.iter().try_for_each(Stream::synchronize).map_err(io::Error::other)
    }
}

impl Drop for PinnedWorker<'_> {
    /// After a failure copies may still be under way; they end here, while their targets are borrowed.
    fn drop(&mut self) {
        for stream in self.streams.iter() {
            let _ = stream.synchronize();
        }
    }
}

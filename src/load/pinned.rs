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
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::Scope;

use anyhow::Result;

use crate::gpu::link::Link;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::{CallerEvent, GpuError};
use crate::load::batch::{self, Buffers};
use crate::load::copies_left::CopiesLeft;
use crate::load::engine::{Engine, Job, PathTaken, Worker};
use crate::load::jobs::{Landing, PackedRead};
use crate::load::lane::{Acquired, Lane};
use crate::load::links::Carrier;
use crate::load::options::Options;
use crate::load::report::LinkReport;
use crate::load::shared::Shared;
use crate::load::source::Storage;
use crate::load::transfer::JobSource;
use crate::os::cancel::Cancel;
use crate::os::sys;
use crate::os::threads::{self, NoThread};

/// The slots of all lanes. They come batch after batch, so that the first threads read while the memory for the
/// others is still being pinned.
pub struct Ring {
    lanes: Vec<Lane>,
    options: Options,
}

impl Ring {
    /// An empty ring for these links.
    pub fn new(carriers: &[Carrier], options: &Options) -> Ring {
        Ring { lanes: carriers.iter().cloned().map(Lane::new).collect(), options: options.clone() }
    }

    /// Whether it serves a load over these links as it is.
    pub fn fits(&self, carriers: &[Carrier], options: &Options) -> bool {
        let sizes = |o: &Options| (o.chunk_bytes, o.copy_bytes, o.slots);
        self.lanes.len() == carriers.len()
            && self.lanes.iter().zip(carriers).all(|(lane, carrier)| lane.carrier == *carrier)
            && sizes(&self.options) == sizes(options)
    }

    /// Whether all its memory is pinned, and nothing went wrong with it.
    pub fn is_filled(&self) -> bool {
        self.lanes.iter().all(Lane::is_filled)
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

    /// Lets copies wait for an event of the caller's.
    pub fn wait_for(&self, event: &CallerEvent) -> Result<(), GpuError> {
        self.lanes.iter().try_for_each(|lane| lane.link()?.wait_for(event))
    }

    /// Lets pinning stand still after the first batch, until what is returned drops. For what is not on a load's clock:
    /// it must not hide a part of what is.
    pub fn hold(&self) -> Hold<'_> {
        self.lanes.iter().for_each(Lane::hold);
        Hold(self)
    }

    /// Whether a link passes bytes on to other GPUs.
    pub fn passes_on(&self) -> bool {
        self.lanes.iter().any(|lane| lane.carrier.passes_on)
    }

    /// Pinned bytes over all lanes.
    pub fn bytes(&self) -> u64 {
        let slots = self.lanes.len() * self.options.slots;
        (slots as u64).saturating_mul(self.options.copy_bytes)
    }

    /// What each link carried since this was last asked.
    pub fn take_reports(&self, transfer_s: f64) -> Result<Vec<LinkReport>, GpuError> {
        let report = |lane: &Lane| Ok(lane.carrier.report(&*lane.link()?, transfer_s));
        self.lanes.iter().map(report).collect()
    }

    /// Gives the copies of a plan's lanes out to its links, each to the one that has room first.
    pub fn share<'s, 'a>(&'a self, shared: &'s Shared<Job<Landing<'a>>>) -> Vec<SharedCopies<'s, 'a>> {
        let source = |lane| SharedCopies { shared, lane, ring: self, begun: Mutex::default() };
        self.lanes.iter().map(source).collect()
    }

    /// Cuts the copy of up to a slot's bytes into parts of a chunk each, which any threads of a link may read.
    pub fn cut<'a>(&'a self, link: usize, copy: Job<Landing<'a>>) -> Vec<Job<SubChunk<'a>>> {
        sub_chunks_of(copy, &self.lanes[link], self.options.chunk_bytes)
    }
}

/// Pinning stands still.
pub struct Hold<'a>(&'a Ring);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.lanes.iter().for_each(Lane::go_on);
    }
}

/// One copy of up to a slot's bytes, to the places of its pieces.
pub struct Copying<'a> {
    lane: &'a Lane,
    targets: Arc<Targets<'a>>,
    pieces: Vec<Piece>,
    packed: Option<PackedRead>,
    left: Option<Arc<CopiesLeft<'a>>>,
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

/// Where the threads of one link get what they read: part by part of a copy that the link has begun, then of the next copy that
/// nobody has taken. So a link whose slots are all under way takes nothing on, and leaves it to those that have room.
pub struct SharedCopies<'s, 'a> {
    shared: &'s Shared<Job<Landing<'a>>>,
    lane: &'a Lane,
    ring: &'a Ring,
    /// Parts of one copy, in their order.
    begun: Mutex<VecDeque<Job<SubChunk<'a>>>>,
}

impl<'a> SharedCopies<'_, 'a> {
    fn begun(&self) -> MutexGuard<'_, VecDeque<Job<SubChunk<'a>>>> {
        self.begun.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<'a> JobSource<SubChunk<'a>> for SharedCopies<'_, 'a> {
    fn count(&self) -> usize {
        let parts = self.ring.options.copy_bytes.div_ceil(self.ring.options.chunk_bytes.max(1)) as usize;
        let Carrier { own, helps, .. } = &self.lane.carrier;
        self.shared.left(own, helps).saturating_mul(parts)
    }

    fn next(&self, _cancel: &Cancel) -> Result<Option<Job<SubChunk<'a>>>> {
        let mut begun = self.begun();
        if begun.is_empty() {
            let Carrier { own, helps, .. } = &self.lane.carrier;
            let copy = self.shared.take(own, helps);
            begun.extend(
                copy.into_iter()
                    .flat_map(|copy| sub_chunks_of(copy, self.lane, self.ring.options.chunk_bytes)),
            );
        }
        Ok(begun.pop_front())
    }

    fn stop(&self) {
        self.shared.clear();
        let rest = std::mem::take(&mut *self.begun());
        drop(rest);
    }
}

/// What a reader of the ring fills.
pub type SubChunk<'a> = batch::SubChunk<Copying<'a>>;

fn sub_chunks_of<'a>(job: Job<Landing<'a>>, lane: &'a Lane, chunk_bytes: u64) -> Vec<Job<SubChunk<'a>>> {
    let Landing { targets, pieces, packed, left } = job.memory;
    let chunk_bytes = sys::align_up(chunk_bytes.max(1), sys::DIRECT_ALIGN);
    let starts = || (0..job.bytes.div_ceil(chunk_bytes)).map(|i| i * chunk_bytes);
    let bytes_from = |start: u64| chunk_bytes.min(job.bytes - start);
    let sizes = starts().map(|start| sys::align_up(bytes_from(start), sys::DIRECT_ALIGN) as usize).collect();
    let parts = batch::sub_chunks(Copying { lane, targets, pieces, packed, left, bytes: job.bytes }, sizes);
    let job_of = |(start, chunk)| Job {
        file: job.file,
        file_offset: job.file_offset + start,
        bytes: bytes_from(start),
        memory: chunk,
    };
    starts().zip(parts).map(job_of).collect()
}

/// Reads what [`SharedCopies`] gives out.
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
        sys::run_near(lane.gpu().numa_node);
        let link = lane.link().map_err(io::Error::other)?;
        Ok(Box::new(PinnedWorker { storage: self.storage, link }))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("pinned")
    }
}

struct PinnedWorker<'a> {
    storage: &'a dyn Storage,
    link: Arc<Link>,
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
            let Copying { targets, pieces, packed, left, bytes, .. } = chunk.buffers();
            let (slot, bytes) = (whole.slot()?, *bytes as usize);
            let queued = match packed {
                None => slot.copy_to(&self.link, targets, pieces, bytes),
                Some(packed) => {
                    packed.check(slot.bytes(bytes).unwrap_or_default()).map_err(io::Error::other)?;
                    slot.unpack_to(&self.link, targets, &packed.windows, pieces, bytes)
                }
            };
            queued
                .and_then(|()| left.as_ref().map_or(Ok(()), |left| left.one_queued(&self.link)))
                .map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.link.synchronize().map_err(io::Error::other)
    }
}

impl Drop for PinnedWorker<'_> {
    /// After a failure copies may still be under way; they end here, while their targets are borrowed.
    fn drop(&mut self) {
        let _ = self.link.synchronize();
    }
}

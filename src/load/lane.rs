//! One link's share of the ring: its slots, and the streams that they are copied on.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::gpu::link::Link;
use crate::gpu::pinned::{check_room, pin};
use crate::gpu::slot::Slot;
use crate::gpu::{Gpu, GpuError};
use crate::load::links::Carrier;
use crate::load::options::Options;
use crate::os::sys;

/// The slots that the threads of one link share.
pub(super) struct Lane {
    pub(super) carrier: Carrier,
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    /// Never used, or given back by a read that queued nothing. The last one in is the warmest.
    free: Vec<Slot>,
    /// Their copies were queued in this order.
    copying: VecDeque<Slot>,
    /// Which all threads queue their copies on. Absent until pinning begins.
    link: Option<Arc<Link>>,
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

/// A link that passes bytes on takes so much of its GPU's memory at most, and passes so much at once: by copies of 16 MiB one
/// link fed another GPU at its full rate.
const MOST_STAGING_BYTES: u64 = 64 << 20;
const MOST_STAGE_BYTES: u64 = 16 << 20;

/// The links of carriers that pass on what is in host memory already; none where each GPU is fed over its own.
pub(super) fn links_of(carriers: &[Carrier]) -> Result<Vec<Link>, GpuError> {
    let passing = carriers.iter().filter(|carrier| carrier.passes_on);
    passing.map(|carrier| link_through(&carrier.direct[0], MOST_STAGE_BYTES, usize::MAX)).collect()
}

/// The link of a GPU that passes bytes on, in copies of up to so many bytes, as many at once.
fn link_through(gpu: &Arc<Gpu>, copy_bytes: u64, copies: usize) -> Result<Link, GpuError> {
    let stage_bytes = copy_bytes.clamp(1, MOST_STAGE_BYTES);
    let stages = usize::try_from(MOST_STAGING_BYTES / stage_bytes).map_or(copies, |most| most.min(copies));
    Link::through(gpu, stage_bytes, stages)
}

impl Lane {
    pub(super) fn new(carrier: Carrier) -> Lane {
        Lane { carrier, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Whether all its memory is pinned, and nothing went wrong with it.
    pub(super) fn is_filled(&self) -> bool {
        let state = self.lock();
        state.filling == Filling::Ended && state.failed.is_none()
    }

    /// Lets pinning stand still after the first batch.
    pub(super) fn hold(&self) {
        let mut state = self.lock();
        if state.filling == Filling::Goes {
            state.filling = Filling::Held;
        }
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) {
        let mut state = self.lock();
        if state.filling == Filling::Held {
            state.filling = Filling::Goes;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The GPU whose link it is.
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.carrier.direct[0]
    }

    /// Pins its slots; a failure is told to whoever waits for one. `ring_bytes` are those of all lanes.
    pub(super) fn fill(&self, options: &Options, ring_bytes: u64) {
        let _ended = Ended(self);
        let result = check_room(self.gpu(), ring_bytes).and_then(|()| self.fill_batches(options));
        if let Err(error) = result {
            self.lock().failed = Some(error);
        }
    }

    fn fill_batches(&self, options: &Options) -> Result<(), GpuError> {
        sys::run_near(self.gpu().numa_node);
        let link = match self.carrier.passes_on {
            false => Link::to_each(&self.carrier.direct)?,
            true => link_through(self.gpu(), options.copy_bytes, options.slots)?,
        };
        self.lock().link = Some(Arc::new(link));
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
            _ => pin(self.gpu(), options.copy_bytes, slots, threads)?,
        };
        let slots =
            pieces.into_iter().map(|p| Slot::new(&self.carrier.direct, p)).collect::<Result<Vec<_>, _>>()?;
        self.lock().free.extend(slots);
        self.changed.notify_all();
        Ok(())
    }

    /// A slot for one copy: a free one, else the one whose copy was queued first. That may not have ended yet:
    /// [`Slot::acquire`] waits for it, outside the lock.
    pub(super) fn take_slot(&self) -> Result<Acquired<'_>, GpuError> {
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

    pub(super) fn link(&self) -> Result<Arc<Link>, GpuError> {
        let mut state = self.lock();
        loop {
            if let Some(link) = &state.link {
                return Ok(link.clone());
            }
            if state.filling == Filling::Ended {
                let none = || self.gpu().error("make a stream", "none was made; please report this");
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
    pub(super) fn slot(&mut self) -> io::Result<&mut Slot> {
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
                        Some(self.lane.gpu().error("use the ring", "a slot was lost; please report this"))
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
            state.failed = Some(self.0.gpu().error("pin memory", "a panic; please report this"));
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

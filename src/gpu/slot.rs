//! One buffer of the ring: pinned bytes that readers fill, and copies to devices that read them.
//!
//! A copy reads its source after the call returned. `Slot` makes that safe: it owns the pinned bytes, gives them
//! out only when their last copy is done, and copies only when it has them back.

use std::sync::Arc;

use crate::gpu::copies::Stream;
use crate::gpu::kernels::{self, Move};
use crate::gpu::memory::{DeviceBuffer, DeviceSlice, Pinned, pin};
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::stream::Event;
use crate::gpu::{Gpu, GpuError};

/// Each copy costs some 3 µs beside its bytes: more pieces than this go to the device as one, and to their places there.
const FEW_PIECES: usize = 4;

/// One buffer of the ring.
pub struct Slot {
    /// What is not out: the rear.
    pinned: Pinned,
    /// Bytes that parts have in front of it.
    out_bytes: usize,
    /// One for each GPU that its bytes may go to.
    ends: Vec<End>,
}

/// What a slot has of one GPU.
struct End {
    /// Recorded after the last of its copies there.
    event: Event,
    pending: bool,
    /// Made at first use.
    staging: Option<Staging>,
}

/// Where copies of many pieces pass through.
struct Staging {
    bytes: DeviceBuffer,
    table: Pinned,
    table_on_device: DeviceBuffer,
}

impl Slot {
    /// A slot whose bytes go to any of these GPUs, of which none stands twice.
    pub fn new(gpus: &[Arc<Gpu>], pinned: Pinned) -> Result<Slot, GpuError> {
        let end = |gpu: &Arc<Gpu>| -> Result<End, GpuError> {
            Ok(End { event: Event::new(gpu)?, pending: false, staging: None })
        };
        let ends = gpus.iter().map(end).collect::<Result<Vec<_>, _>>()?;
        Ok(Slot { pinned, out_bytes: 0, ends })
    }

    /// Gives its bytes out in parts of these sizes, from the first on, once no copy reads them any more.
    pub fn acquire(&mut self, sizes: &[usize]) -> Result<Vec<Pinned>, GpuError> {
        let bytes = sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size));
        if self.out_bytes > 0 || bytes > self.pinned.bytes {
            return Err(self.mistake("it was to be given out twice, or beyond its end"));
        }
        self.wait()?;
        self.out_bytes = bytes;
        Ok(sizes.iter().map(|size| self.pinned.split_front(*size)).collect())
    }

    /// Takes the parts back, in the order in which they were given out. Fails if one is missing: the slot stays without it.
    pub fn release(&mut self, parts: Vec<Pinned>) -> Result<(), GpuError> {
        for part in parts.into_iter().rev() {
            let out_bytes = self.out_bytes.checked_sub(part.bytes);
            let joined = out_bytes.filter(|_| self.pinned.join_front(part).is_ok());
            self.out_bytes = joined.ok_or_else(|| self.mistake("a part came back out of place"))?;
        }
        match self.is_out() {
            true => Err(self.mistake("a part is missing")),
            false => Ok(()),
        }
    }

    /// Whether bytes of it are elsewhere.
    pub fn is_out(&self) -> bool {
        self.out_bytes > 0
    }

    fn mistake(&self, what: &str) -> GpuError {
        self.pinned.arena.gpu.error("use a slot of the ring", &format!("{what}; please report this"))
    }

    /// Queues copies of pieces of its first `bytes` bytes to their targets, which are freed only when these have ended;
    /// `streams` are one for each of its GPUs, in their order.
    pub(crate) fn copy_to(
        &mut self,
        streams: &[Stream],
        targets: &Targets<'_>,
        pieces: &[Piece],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let within = |piece: &Piece| piece.from_end().is_some_and(|end| end <= bytes as u64);
        if self.is_out() || bytes > self.pinned.bytes || !pieces.iter().all(within) {
            return Err(self.mistake("it was to be copied while its bytes were out, or beyond its end"));
        }
        // Copies that were queued before still read the bytes and the tables; giving out has waited for them already.
        self.wait()?;
        for (i, stream) in streams.iter().enumerate() {
            let mut landing: Vec<(&Piece, DeviceSlice<'_>)> = Vec::new();
            for piece in pieces {
                let here = targets.of(piece)?.filter(|(gpu, _)| gpu.index == stream.gpu.index);
                landing.extend(here.map(|(_, slice)| (piece, slice)));
            }
            if !landing.is_empty() {
                self.copy_on(i, stream, &landing, bytes)?;
            }
        }
        Ok(())
    }

    /// Queues what lands on one GPU.
    fn copy_on(
        &mut self,
        i: usize,
        stream: &Stream,
        landing: &[(&Piece, DeviceSlice<'_>)],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let allocations = landing.chunk_by(|(_, a), (_, b)| std::ptr::eq(a.users, b.users));
        allocations.filter_map(<[_]>::first).for_each(|(_, slice)| slice.users.add(&stream.queue));
        let queued = match landing.len() <= FEW_PIECES && landing.iter().all(|(piece, _)| piece.rows == 1) {
            true => self.copy_each(i, stream, landing),
            false => self.copy_through_staging(i, stream, landing, bytes),
        };
        let end = &mut self.ends[i];
        match queued.and_then(|()| end.event.record(&stream.queue)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // No event stands for what was queued: end it here.
                let _ = stream.synchronize();
                Err(error)
            }
        }
    }

    fn copy_each(
        &mut self,
        i: usize,
        stream: &Stream,
        landing: &[(&Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        self.ends[i].pending = true;
        for (piece, slice) in landing {
            let source = &self.pinned.as_slice()[piece.from as usize..][..piece.bytes as usize];
            // SAFETY: none of the bytes is out. The slot gives them out again, and drops them, only after `wait`,
            // which waits for the event recorded behind this copy. The piece fits its target (`Targets::of`), which is
            // freed only after this stream has come past the copy: `copy_on` has put it among its users.
            unsafe { stream.queue_at(slice.address, source) }?;
        }
        Ok(())
    }

    /// One copy for all pieces, and a kernel that takes them apart on the device.
    fn copy_through_staging(
        &mut self,
        i: usize,
        stream: &Stream,
        landing: &[(&Piece, DeviceSlice<'_>)],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let moves: Vec<Move> =
            landing.iter().flat_map(|(piece, slice)| Move::all_of(piece, slice.address)).collect();
        let table = kernels::move_bytes(&moves);
        let slot_bytes = (self.pinned.bytes + self.out_bytes) as u64;
        let (pinned, End { pending, staging, event }) = (&self.pinned, &mut self.ends[i]);
        // `copy_to` has waited: nothing reads the last table or staging any more.
        let staging = Staging::large_enough(staging, event.gpu(), slot_bytes, table.len())?;
        staging.table.as_mut_slice()[..table.len()].copy_from_slice(table);
        *pending = true;
        // SAFETY: as in `copy_each`; table and staging live as long as the slot, whose Drop waits for the event, too.
        unsafe {
            stream.queue_at(staging.bytes.address(), &pinned.as_slice()[..bytes])?;
            stream.queue_at(staging.table_on_device.address(), &staging.table.as_slice()[..table.len()])?;
            // Each move reads within the first `bytes` bytes (`copy_to` has looked), and writes within its target.
            kernels::scatter(stream, &staging.bytes, &staging.table_on_device, moves.len())
        }
    }

    /// Whether copies were queued since the bytes were last out; they may have ended.
    pub fn is_copying(&self) -> bool {
        self.ends.iter().any(|end| end.pending)
    }

    fn wait(&mut self) -> Result<(), GpuError> {
        self.ends.iter_mut().try_for_each(End::wait)
    }
}

impl End {
    fn wait(&mut self) -> Result<(), GpuError> {
        if self.pending {
            self.event.synchronize()?;
            self.pending = false;
        }
        Ok(())
    }
}

impl Staging {
    /// What there is where it is large enough for the slot's bytes and a table of so many; else new. Nothing uses the old.
    fn large_enough<'s>(
        made: &'s mut Option<Staging>,
        gpu: &Arc<Gpu>,
        slot_bytes: u64,
        table_bytes: usize,
    ) -> Result<&'s mut Staging, GpuError> {
        let staging = match made.take() {
            Some(staging) if staging.table.bytes >= table_bytes => staging,
            // Twice what is needed: the next copy has about as many pieces.
            _ => Staging::new(gpu, slot_bytes, 2 * table_bytes as u64)?,
        };
        Ok(made.insert(staging))
    }

    fn new(gpu: &Arc<Gpu>, slot_bytes: u64, table_bytes: u64) -> Result<Staging, GpuError> {
        let table = pin(gpu, table_bytes, 1, 1)?.pop();
        let none = || gpu.error("use a slot of the ring", "no memory came for its table; please report this");
        Ok(Staging {
            table: table.ok_or_else(none)?,
            bytes: DeviceBuffer::new(gpu, slot_bytes)?,
            table_on_device: DeviceBuffer::new(gpu, table_bytes)?,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Each for itself: one GPU's failure says nothing of the copies to another.
        for end in &mut self.ends {
            if end.wait().is_err() {
                // A copy whose end can't be seen may still read: wait for everything on this device. If that fails
                // too the context is lost, and with it every copy.
                let _ = end.event.gpu().synchronize();
            }
        }
    }
}

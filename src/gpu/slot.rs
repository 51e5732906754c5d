//! One buffer of the ring: pinned bytes that readers fill, and copies to devices that read them.
//!
//! A copy reads its source after the call returned. `Slot` makes that safe: it owns the pinned bytes, gives them
//! out only when their last copy is done, and copies only when it has them back.

use std::sync::Arc;

use crate::gpu::copies::Stream;
use crate::gpu::link::Link;
use crate::gpu::memory::DeviceSlice;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::staging::{Staging, are_few, copy_each};
use crate::gpu::stream::Event;
use crate::gpu::unpack::PackedWindow;
use crate::gpu::{Gpu, GpuError};

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
        self.pinned.arena.error("use a slot of the ring", &format!("{what}; please report this"))
    }

    /// Queues copies of pieces of its first `bytes` bytes to their targets, which are freed only when these have ended. The
    /// link is that of the slot's GPUs.
    pub(crate) fn copy_to(
        &mut self,
        link: &Link,
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
        if link.passes_on() {
            return self.copy_through(link, targets, pieces, bytes);
        }
        for (i, stream) in link.direct.iter().enumerate() {
            let mut landing: Vec<(Piece, DeviceSlice<'_>)> = Vec::new();
            for piece in pieces {
                let here = targets.of(piece)?.filter(|(gpu, _)| gpu.index == stream.gpu.index);
                landing.extend(here.map(|(_, slice)| (*piece, slice)));
            }
            if !landing.is_empty() {
                link.count_sent(landing.iter().map(|(piece, _)| piece.bytes * piece.rows).sum());
                self.copy_on(i, stream, &landing, bytes)?;
            }
        }
        Ok(())
    }

    /// Its first bytes, while none are out.
    pub(crate) fn bytes(&self, bytes: usize) -> Option<&[u8]> {
        self.pinned.as_slice().get(..bytes).filter(|_| !self.is_out())
    }

    /// As [`Slot::copy_to`], of packed bytes that are unpacked on each GPU: `pieces` count bytes as `windows` do. The link
    /// passes nothing on.
    pub(crate) fn unpack_to(
        &mut self,
        link: &Link,
        targets: &Targets<'_>,
        windows: &[PackedWindow],
        pieces: &[Piece],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let within = |window: &PackedWindow| window.from.saturating_add(window.bytes.into()) <= bytes as u64;
        if self.is_out() || bytes > self.pinned.bytes || !windows.iter().all(within) || link.passes_on() {
            return Err(self.mistake("packed bytes were to be copied while they were out, or beyond its end"));
        }
        self.wait()?;
        let slot_bytes = self.pinned.bytes as u64;
        for (i, stream) in link.direct.iter().enumerate() {
            let mut landing: Vec<(Piece, DeviceSlice<'_>)> = Vec::new();
            for piece in pieces {
                let here = targets.of(piece)?.filter(|(gpu, _)| gpu.index == stream.gpu.index);
                landing.extend(here.map(|(_, slice)| (*piece, slice)));
            }
            if landing.is_empty() {
                continue;
            }
            let end = &mut self.ends[i];
            end.pending = true;
            let source = &self.pinned.as_slice()[..bytes];
            // SAFETY: none of the bytes is out. The slot gives them out again, and drops them, only after `wait`, which waits
            // for the event recorded behind this copy. All chunks lie within `bytes`, as was just seen.
            let queued = unsafe { link.unpack(i, source, slot_bytes, windows, &landing) };
            end.recorded(stream, queued)?;
        }
        Ok(())
    }

    /// Queues all of it over one link, which passes on what is meant for others.
    fn copy_through(
        &mut self,
        link: &Link,
        targets: &Targets<'_>,
        pieces: &[Piece],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let (Some(stream), Some(end)) = (link.direct.first(), self.ends.first_mut()) else { return Ok(()) };
        end.pending = true;
        // SAFETY: none of the bytes is out. The slot gives them out again, and drops them, only after `wait`, which waits for
        // the event recorded behind this copy. All pieces lie within `bytes`: `copy_to` has looked.
        let queued = unsafe { link.queue(&self.pinned.as_slice()[..bytes], targets, pieces) };
        end.recorded(stream, queued)
    }

    /// Queues what lands on one GPU.
    fn copy_on(
        &mut self,
        i: usize,
        stream: &Stream,
        landing: &[(Piece, DeviceSlice<'_>)],
        bytes: usize,
    ) -> Result<(), GpuError> {
        let (pinned, end) = (&self.pinned, &mut self.ends[i]);
        let slot_bytes = (pinned.bytes + self.out_bytes) as u64;
        // `copy_to` has waited: nothing reads the last table or staging any more.
        let queued = match are_few(landing) {
            true => end.copy_each(pinned, stream, landing),
            false => end.copy_through_staging(&pinned.as_slice()[..bytes], slot_bytes, stream, landing),
        };
        end.recorded(stream, queued)
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
    fn copy_each(
        &mut self,
        pinned: &Pinned,
        stream: &Stream,
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        self.pending = true;
        // SAFETY: none of the bytes is out. The slot gives them out again, and drops them, only after `wait`, which waits for the
        // event recorded behind these copies. Each piece lies within them: `copy_to` has looked.
        unsafe { copy_each(stream, pinned.as_slice(), landing) }
    }

    /// One copy for all pieces, and a kernel that takes them apart on the device.
    fn copy_through_staging(
        &mut self,
        source: &[u8],
        slot_bytes: u64,
        stream: &Stream,
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        let staging = match &mut self.staging {
            Some(staging) => staging,
            none => none.insert(Staging::new(self.event.gpu(), slot_bytes)?),
        };
        self.pending = true;
        // SAFETY: as in `copy_each`; the staging lives as long as the slot, whose Drop waits for the event, too. Each piece lies
        // within the source (`copy_to` has looked), and nothing reads the last table any more.
        unsafe {
            staging.fill(stream, source)?;
            staging.deliver(stream, landing)
        }
    }

    /// Records the end of what was queued.
    fn recorded(&self, stream: &Stream, queued: Result<(), GpuError>) -> Result<(), GpuError> {
        queued.and_then(|()| self.event.record(&stream.queue)).inspect_err(|_| {
            // No event stands for what was queued: end it here.
            let _ = stream.synchronize();
        })
    }

    fn wait(&mut self) -> Result<(), GpuError> {
        if self.pending {
            self.event.synchronize()?;
            self.pending = false;
        }
        Ok(())
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

//! Asynchronous copies from pinned host memory to devices.
//!
//! A copy reads its source after the call returned. [`Slot`] makes that safe: it owns the pinned bytes, gives them
//! out only when their last copy is done, and copies only when it has them back.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result};

use crate::gpu::memory::{DeviceSlice, Pinned};
use crate::gpu::{Gpu, GpuError};

/// A stream of one GPU.
pub struct Stream {
    gpu: Arc<Gpu>,
    stream: Arc<CudaStream>,
}

impl Stream {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Stream, GpuError> {
        let stream = gpu.context.new_stream().map_err(gpu.fail("make a stream"))?;
        Ok(Stream { gpu: gpu.clone(), stream })
    }

    /// Queues a copy of `bytes` bytes at `offset` from one range of device memory to another, which may be on another GPU.
    /// Whoever calls it synchronizes before the ranges go: as long as they are borrowed they stay allocated.
    pub fn copy_between(
        &self,
        from: &DeviceSlice<'_>,
        to: &mut DeviceSlice<'_>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), GpuError> {
        let fits = |slice: &DeviceSlice<'_>| offset.checked_add(bytes).is_some_and(|end| end <= slice.bytes);
        if !fits(from) || !fits(to) {
            return Err(self.gpu.error("queue a copy", "it is longer than its target; please report this"));
        }
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        let (from, to) = (from.address + offset, to.address + offset);
        // SAFETY: both ranges lie in live allocations when it is queued, and the callers synchronize before their borrow
        // ends (`GdsWorker` in its Drop). Even a copy that outlived them would touch device memory only, none of ours.
        unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream.cu_stream()) }
            .map_err(self.gpu.fail("queue a copy"))
    }

    /// Waits for all that was queued.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(self.gpu.fail("finish its copies"))
    }

    /// Copies each source to its target, all queued at once, and returns when the last has arrived. At the link's rate
    /// from pinned memory; other memory works, slowly.
    pub fn copy_all(&self, copies: &[(&DeviceSlice<'_>, &[u8])]) -> Result<(), GpuError> {
        if copies.iter().any(|(target, source)| source.len() as u64 > target.bytes) {
            return Err(self.gpu.error("queue a copy", "it is longer than its target; please report this"));
        }
        let queued = copies.iter().try_for_each(|(target, source)| {
            // SAFETY: the sources are borrowed until this function returns, and it synchronizes first, whatever fails.
            unsafe { self.queue(target, source) }
        });
        queued.and(self.synchronize())
    }

    /// The same from pinned pieces: those that are neighbours on both sides go as one copy, since each copy costs some
    /// 3 µs beside its bytes.
    pub fn copy_pieces(&self, copies: &[PieceCopy<'_>]) -> Result<(), GpuError> {
        if copies.iter().any(|c| c.bytes as u64 > c.target.bytes || c.bytes > c.source.bytes) {
            return Err(self.gpu.error("queue a copy", "it is longer than its piece; please report this"));
        }
        let queued = copies.chunk_by(|a, b| a.is_followed_by(b)).try_for_each(|run| {
            let Some(first) = run.first() else { return Ok(()) };
            let bytes: usize = run.iter().map(|c| c.bytes).sum();
            // SAFETY: neighbours within one arena, each borrowed until this function returns.
            let source = unsafe { first.source.as_slice_past_its_end(bytes) };
            // SAFETY: as are the targets, which follow one another; and it synchronizes first, whatever fails.
            unsafe { self.queue_at(first.target.address, source) }
        });
        queued.and(self.synchronize())
    }

    /// Queues a copy.
    ///
    /// # Safety
    /// `source` must stay alive and as it is, and the target allocated and the caller's alone, until the stream has been
    /// synchronized or an event recorded after this call has completed. Memory that is not pinned the driver takes a copy
    /// of first.
    unsafe fn queue(&self, target: &DeviceSlice<'_>, source: &[u8]) -> Result<(), GpuError> {
        assert!(source.len() as u64 <= target.bytes, "a copy must stay within its target");
        // SAFETY: our own contract.
        unsafe { self.queue_at(target.address, source) }
    }

    /// Queues a copy.
    ///
    /// # Safety
    /// As of [`Stream::queue`]; the target is as many bytes at `address`.
    unsafe fn queue_at(&self, address: u64, source: &[u8]) -> Result<(), GpuError> {
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        // SAFETY: both ranges are kept by our own contract.
        unsafe { result::memcpy_htod_async(address, source, self.stream.cu_stream()) }
            .map_err(self.gpu.fail("queue a copy"))
    }
}

/// A copy of the first `bytes` bytes of a pinned piece.
pub struct PieceCopy<'a> {
    pub target: &'a DeviceSlice<'a>,
    pub source: &'a Pinned,
    pub bytes: usize,
}

impl PieceCopy<'_> {
    /// Whether one copy can do for both. Pieces of two arenas may be neighbours, too, but each is registered by itself.
    fn is_followed_by(&self, next: &PieceCopy<'_>) -> bool {
        let source_end = self.source.as_slice()[..self.bytes].as_ptr_range().end;
        source_end == next.source.as_slice().as_ptr()
            && Arc::ptr_eq(&self.source.arena, &next.source.arena)
            && self.target.allocation == next.target.allocation
            && self.target.address + self.bytes as u64 == next.target.address
    }
}

/// One buffer of the ring: pinned bytes, and the copies that still read them.
pub struct Slot {
    /// What is not lent out: the rear.
    pinned: Pinned,
    /// Bytes that parts have in front of it.
    lent_bytes: usize,
    /// One for each destination of a copy, recorded after it.
    events: Vec<CudaEvent>,
    pending: usize,
}

impl Slot {
    /// A slot whose bytes go to up to as many GPUs at once.
    pub fn new(gpus: &[Arc<Gpu>], pinned: Pinned) -> Result<Slot, GpuError> {
        let event = |gpu: &Arc<Gpu>| gpu.context.new_event(None).map_err(gpu.fail("make an event"));
        let events = gpus.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        Ok(Slot { pinned, lent_bytes: 0, events, pending: 0 })
    }

    /// Lends its bytes out in parts of these sizes, from the first on, once no copy reads them any more.
    pub fn lend(&mut self, sizes: &[usize]) -> Result<Vec<Pinned>, GpuError> {
        let bytes = sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size));
        if self.lent_bytes > 0 || bytes > self.pinned.bytes {
            return Err(self.mistake("it was to be lent out twice, or beyond its end"));
        }
        self.wait()?;
        self.lent_bytes = bytes;
        Ok(sizes.iter().map(|size| self.pinned.split_front(*size)).collect())
    }

    /// Takes the parts back, in the order in which they were lent. Fails if one is missing: the slot stays lent.
    pub fn take_back(&mut self, parts: Vec<Pinned>) -> Result<(), GpuError> {
        for part in parts.into_iter().rev() {
            let lent_bytes = self.lent_bytes.checked_sub(part.bytes);
            let joined = lent_bytes.filter(|_| self.pinned.join_front(part).is_ok());
            self.lent_bytes = joined.ok_or_else(|| self.mistake("a part came back out of place"))?;
        }
        match self.is_lent() {
            true => Err(self.mistake("a part is missing")),
            false => Ok(()),
        }
    }

    /// Whether bytes of it are elsewhere.
    pub fn is_lent(&self) -> bool {
        self.lent_bytes > 0
    }

    fn mistake(&self, what: &str) -> GpuError {
        self.pinned.arena.gpu.error("use a slot of the ring", &format!("{what}; please report this"))
    }

    /// Queues a copy of the first `bytes` bytes to each target, one for each stream. Whoever calls it synchronizes the
    /// streams before the targets go (`PinnedWorker` in its Drop).
    pub(crate) fn copy_to(
        &mut self,
        streams: &[Stream],
        targets: &[DeviceSlice<'_>],
        bytes: usize,
    ) -> Result<(), GpuError> {
        if self.is_lent() || bytes > self.pinned.bytes {
            return Err(self.mistake("it was to be copied while lent out, or beyond its end"));
        }
        for (i, (stream, target)) in streams.iter().zip(targets).enumerate() {
            // SAFETY: none of the bytes is lent out. The slot lends them out again, and drops them, only after `wait`,
            // which waits for the event recorded behind this copy. The targets are borrowed until the streams are synchronized.
            unsafe { stream.queue(target, &self.pinned.as_slice()[..bytes]) }?;
            self.pending = i + 1;
            if let Err(e) = self.events[i].record(&stream.stream) {
                // No event stands for this copy: end it here.
                let _ = stream.synchronize();
                return Err(stream.gpu.fail("record an event")(e));
            }
        }
        Ok(())
    }

    /// Whether copies were queued since the bytes were last lent out; they may have ended.
    pub fn is_copying(&self) -> bool {
        self.pending > 0
    }

    fn wait(&mut self) -> Result<(), GpuError> {
        let gpu = &self.pinned.arena.gpu;
        for event in &self.events[..self.pending] {
            event.synchronize().map_err(gpu.fail("finish a copy"))?;
        }
        self.pending = 0;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.wait().is_err() {
            // A copy whose end can't be seen may still read: wait for everything on this device. If that fails
            // too the context is lost, and with it every copy.
            let _ = self.pinned.arena.gpu.context.synchronize();
        }
    }
}

//! Asynchronous copies from pinned host memory to devices, and between devices.

use std::sync::Arc;

use cudarc::driver::result;

use crate::gpu::memory::DeviceSlice;
use crate::gpu::pinned::Pinned;
use crate::gpu::stream::{Event, Queue};
use crate::gpu::{Gpu, GpuError};

/// A stream of one GPU.
pub struct Stream {
    pub(super) gpu: Arc<Gpu>,
    pub(super) queue: Arc<Queue>,
}

impl Stream {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Stream, GpuError> {
        Ok(Stream { gpu: gpu.clone(), queue: Arc::new(Queue::new(gpu)?) })
    }

    /// Queues a copy from one range of device memory to another as long, which may be on another GPU. It goes on when the
    /// ranges are no longer borrowed; their allocations are freed only when it has ended.
    pub fn copy_between(&self, from: &DeviceSlice<'_>, to: &DeviceSlice<'_>) -> Result<(), GpuError> {
        if from.bytes != to.bytes {
            return Err(self.gpu.error("queue a copy", "its ranges differ in length; please report this"));
        }
        self.gpu.make_current()?;
        [from, to].iter().for_each(|range| range.users.add(&self.queue));
        // SAFETY: both ranges lie in live allocations, which wait for this stream before they are freed: it is among
        // their users.
        unsafe { result::memcpy_dtod_async(to.address, from.address, from.bytes as usize, self.queue.raw()) }
            .map_err(self.gpu.fail("queue a copy"))
    }

    /// Lets what is queued from now on wait for an event, on the device.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), GpuError> {
        self.queue.wait_for(event)
    }

    /// Waits for all that was queued.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.queue.synchronize()
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
        let fits = |c: &PieceCopy<'_>| {
            c.bytes as u64 <= c.target.bytes
                && c.from.checked_add(c.bytes).is_some_and(|end| end <= c.source.bytes)
        };
        if !copies.iter().all(fits) {
            return Err(self.gpu.error("queue a copy", "it is longer than its piece; please report this"));
        }
        let queued = copies.chunk_by(|a, b| a.is_followed_by(b)).try_for_each(|run| {
            let Some(first) = run.first() else { return Ok(()) };
            let bytes: usize = run.iter().map(|c| c.bytes).sum();
            // SAFETY: neighbours within one arena, each borrowed until this function returns.
            let source = unsafe { first.source.as_slice_past_its_end(first.from, bytes) };
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
    pub(super) unsafe fn queue_at(&self, address: u64, source: &[u8]) -> Result<(), GpuError> {
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        // SAFETY: both ranges are kept by our own contract.
        unsafe { result::memcpy_htod_async(address, source, self.queue.raw()) }
            .map_err(self.gpu.fail("queue a copy"))
    }
}

/// A copy of `bytes` bytes of a pinned piece, from byte `from` on.
pub struct PieceCopy<'a> {
    pub target: DeviceSlice<'a>,
    pub source: &'a Pinned,
    pub from: usize,
    pub bytes: usize,
}

impl PieceCopy<'_> {
    /// Whether one copy can do for both. Pieces of two arenas may be neighbours, too, but each is registered by itself.
    fn is_followed_by(&self, next: &PieceCopy<'_>) -> bool {
        let source_end = self.source.as_slice()[self.from..][..self.bytes].as_ptr_range().end;
        source_end == next.source.as_slice()[next.from..].as_ptr()
            && Arc::ptr_eq(&self.source.arena, &next.source.arena)
            && self.target.allocation == next.target.allocation
            && self.target.address + self.bytes as u64 == next.target.address
    }
}

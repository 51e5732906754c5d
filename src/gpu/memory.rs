//! Device memory, pinned host memory, and asynchronous copies from one to the other.
//!
//! A copy reads its source after the call returned. [`Slot`] makes that safe: it owns the pinned bytes, gives them out
//! only when their last copy is done, and copies only when it has them back.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::{Gpu, GpuError};
use crate::memory::{HostBuffer, available_bytes};
use crate::sys::{DIRECT_ALIGN, align_up};

/// CUDA gives out memory from this size on in pages of its own, aligned to 2 MiB.
const LARGE_BYTES: u64 = 2 << 20;

/// One allocation of device memory, aligned to 4 KiB as direct reads want it.
pub struct DeviceBuffer {
    gpu: Arc<Gpu>,
    /// What the driver gave, and the first aligned address in it.
    allocation: u64,
    address: u64,
    bytes: u64,
}

impl DeviceBuffer {
    /// Allocates at least one byte. Out of memory says what was needed and what is free.
    pub fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<DeviceBuffer, GpuError> {
        // Small allocations share pages, and begin anywhere in them; large ones have pages of their own.
        let spare = if bytes < LARGE_BYTES { DIRECT_ALIGN } else { 0 };
        let size = bytes.max(1).saturating_add(spare) as usize;
        gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
        // SAFETY: the context is current on this thread; the address is only used through this owner.
        match unsafe { result::malloc_sync(size) } {
            Ok(allocation) => {
                let address = if spare > 0 { align_up(allocation, DIRECT_ALIGN) } else { allocation };
                Ok(DeviceBuffer { gpu: gpu.clone(), allocation, address, bytes })
            }
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = gpu.memory_info().map_or("unknown".to_string(), |(free, _)| free.to_string());
                let what = format!(
                    "{bytes} bytes of device memory are needed and {free} are free: end other processes on this GPU \
                     (nvidia-smi), name more GPUs, or load a smaller checkpoint"
                );
                Err(gpu.fail(&what)(e))
            }
            Err(e) => Err(gpu.fail(&format!("allocate {bytes} bytes"))(e)),
        }
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The device address of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole of it, to be split among writers.
    pub fn as_mut_slice(&mut self) -> DeviceSlice<'_> {
        DeviceSlice { address: self.address, bytes: self.bytes, owner: PhantomData }
    }

    /// Copies `out.len()` bytes from `offset` back to the host, and waits.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), GpuError> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            let (gpu, what) = (self.gpu.label.clone(), format!("read {} bytes at {offset}", out.len()));
            return Err(GpuError { gpu, what, cause: format!("the buffer has {} bytes", self.bytes) });
        }
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        // SAFETY: the range lies within this live allocation, and the call returns when the bytes are in `out`.
        unsafe { result::memcpy_dtoh_sync(out, self.address + offset) }
            .map_err(self.gpu.fail("copy to the host"))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.gpu.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `new` and freed once; copies into it borrow it and have ended. A failure means
            // a lost context, whose memory the driver frees.
            let _ = unsafe { result::free_sync(self.allocation) };
        }
    }
}

/// An exclusive range of device memory. Splitting is the only way to get a second one.
pub struct DeviceSlice<'a> {
    address: u64,
    bytes: u64,
    owner: PhantomData<&'a mut DeviceBuffer>,
}

impl<'a> DeviceSlice<'a> {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device address of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Splits in two; the first has `bytes` bytes, or all where there are fewer.
    pub fn split_at(self, bytes: u64) -> (DeviceSlice<'a>, DeviceSlice<'a>) {
        let first = bytes.min(self.bytes);
        (
            DeviceSlice { address: self.address, bytes: first, owner: PhantomData },
            DeviceSlice { address: self.address + first, bytes: self.bytes - first, owner: PhantomData },
        )
    }

    /// Copies `bytes` to `offset`, and returns when `bytes` may change again; [`Gpu::synchronize`] tells when they
    /// have arrived. How the baseline and tests write.
    pub fn write(&mut self, gpu: &Gpu, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.bytes) {
            let (gpu, what) = (gpu.label.clone(), format!("write {} bytes at {offset}", bytes.len()));
            return Err(GpuError { gpu, what, cause: format!("the range has {} bytes", self.bytes) });
        }
        gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
        // SAFETY: the range is exclusively ours and within a live allocation; the call returns when it is done
        // with `bytes`.
        unsafe { result::memcpy_htod_sync(self.address + offset, bytes) }
            .map_err(gpu.fail("copy to the device"))
    }
}

/// Host memory that devices read directly: a [`HostBuffer`], registered with the driver for all contexts.
struct PinnedArena {
    gpu: Arc<Gpu>,
    buffer: HostBuffer,
}

impl Drop for PinnedArena {
    fn drop(&mut self) {
        if self.gpu.context.bind_to_thread().is_ok() {
            // SAFETY: registered by `pin` and unregistered once, before the buffer goes. Copies from it have
            // ended: Slot waits for its own, and `copy_all` waits before it returns.
            let _ = unsafe { sys::cuMemHostUnregister(self.buffer.as_mut_slice().as_mut_ptr().cast()) };
        }
    }
}

/// An exclusive piece of pinned memory. Pieces pinned together share one registration, which ends with the
/// last of them.
pub struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
    arena: Arc<PinnedArena>,
}

// SAFETY: a piece is the only way to its bytes, as a Box is, and the arena behind it is never changed.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared pieces can only be read.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies in the arena that this piece keeps alive, it was initialised by the prefault, and
        // no other piece overlaps it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Takes the first `bytes` bytes off it, or all where there are fewer.
    pub fn split_front(&mut self, bytes: usize) -> Pinned {
        let front_bytes = bytes.min(self.bytes);
        let front = Pinned { start: self.start, bytes: front_bytes, arena: self.arena.clone() };
        // SAFETY: at most one past the end of this piece, within or just behind the arena. From here on the two pieces
        // don't overlap.
        self.start = unsafe { self.start.add(front_bytes) };
        self.bytes -= front_bytes;
        front
    }

    /// Puts the piece back that lies right before this one; gives it back if it does not.
    pub fn join_front(&mut self, front: Pinned) -> Result<(), Pinned> {
        // SAFETY: one past the end of a piece is within or just behind its arena.
        let front_end = unsafe { front.start.add(front.bytes) };
        // Pieces of two arenas may be neighbours, too, but each keeps only its own alive.
        if front_end != self.start || !Arc::ptr_eq(&front.arena, &self.arena) {
            return Err(front);
        }
        self.start = front.start;
        self.bytes += front.bytes;
        Ok(())
    }
}

/// Bytes of one registration at most. Several go side by side: while the driver registers one, the pages of the
/// next come in. 12 GiB took 0.44 s so, 0.47 s by the GiB, 0.58 s at once.
const ARENA_BYTES: u64 = 256 << 20;

/// Refuses to pin more than there is, before any page is touched: piece by piece each would seem to fit.
pub fn check_room(gpu: &Gpu, bytes: u64) -> Result<(), GpuError> {
    match available_bytes() {
        Some(free) if bytes > free => Err(gpu.error(
            &format!("pin {bytes} bytes of host memory (ask for less with --ring-size, --mem-pool-size)"),
            &format!("{free} bytes are available"),
        )),
        _ => Ok(()),
    }
}

/// Pins `count` pieces of `bytes` bytes (rounded up to 4 KiB), with `threads` threads. Small pieces share a
/// registration: one each would queue at the driver's lock.
pub fn pin(gpu: &Arc<Gpu>, bytes: u64, count: usize, threads: usize) -> Result<Vec<Pinned>, GpuError> {
    let piece_bytes = align_up(bytes.max(1), DIRECT_ALIGN);
    check_room(gpu, piece_bytes.saturating_mul(count as u64))?;
    let per_arena = (ARENA_BYTES / piece_bytes).max(1) as usize;
    let arenas = count.div_ceil(per_arena);
    let side_by_side = arenas.min(threads.max(1));
    let next = AtomicUsize::new(0);
    let pieces = Mutex::new(Vec::with_capacity(count));
    let run = || -> Result<(), GpuError> {
        loop {
            let first = next.fetch_add(1, Ordering::Relaxed) * per_arena;
            if first >= count {
                return Ok(());
            }
            let arena =
                pin_arena(gpu, piece_bytes, per_arena.min(count - first), threads.div_ceil(side_by_side))?;
            pieces.lock().unwrap_or_else(|e| e.into_inner()).extend(arena);
        }
    };
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..side_by_side).map(|_| scope.spawn(run)).collect();
        let join = |h: std::thread::ScopedJoinHandle<'_, _>| {
            h.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
        };
        // All are waited for, and the first error is kept.
        started.into_iter().map(join).fold(Ok(()), Result::and)
    })?;
    Ok(pieces.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// One registration of `count` pieces.
fn pin_arena(
    gpu: &Arc<Gpu>,
    piece_bytes: u64,
    count: usize,
    threads: usize,
) -> Result<Vec<Pinned>, GpuError> {
    let no_memory = |what: String| GpuError { gpu: gpu.label.clone(), what, cause: "no host memory".into() };
    let total = piece_bytes.saturating_mul(count as u64);
    let mut buffer = HostBuffer::new(total).map_err(|e| no_memory(format!("{e:#}")))?;
    buffer.prefault(threads);
    gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
    let memory = buffer.as_mut_slice();
    let first = NonNull::from(&mut *memory).cast::<u8>();
    // SAFETY: the range is mapped, owned by `buffer`, and stays so until PinnedArena's Drop has unregistered it.
    let code = unsafe {
        sys::cuMemHostRegister_v2(memory.as_mut_ptr().cast(), memory.len(), sys::CU_MEMHOSTREGISTER_PORTABLE)
    };
    let what = format!(
        "pin {total} bytes of host memory (if they are locked or limited, raise `ulimit -l` and the container's \
         memory limit, or ask for less with --num-threads, --chunk-size, --mem-pool-size)"
    );
    code.result().map_err(gpu.fail(&what))?;
    let arena = Arc::new(PinnedArena { gpu: gpu.clone(), buffer });
    let piece = |i: usize| Pinned {
        // SAFETY: `count` pieces of this size were reserved, so the offset is within the buffer.
        start: unsafe { first.add(i * piece_bytes as usize) },
        bytes: piece_bytes as usize,
        arena: arena.clone(),
    };
    Ok((0..count).map(piece).collect())
}

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
        // SAFETY: both ranges lie in live allocations. Device memory is freed by `cuMemFree`, which waits for what was
        // queued, so that a copy can't outlive them.
        unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream.cu_stream()) }
            .map_err(self.gpu.fail("queue a copy"))
    }

    /// Waits for all that was queued.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(self.gpu.fail("finish its copies"))
    }

    /// Queues a copy.
    ///
    /// # Safety
    /// `source` must stay as it is, pinned, until the stream has been synchronized or an event recorded after
    /// this call has completed.
    unsafe fn queue(&self, target: &DeviceSlice<'_>, offset: u64, source: &[u8]) -> Result<(), GpuError> {
        assert!(offset + source.len() as u64 <= target.bytes, "a copy must stay within its target");
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        // SAFETY: the target range is exclusively the caller's; the source is kept by our own contract.
        unsafe { result::memcpy_htod_async(target.address + offset, source, self.stream.cu_stream()) }
            .map_err(self.gpu.fail("queue a copy"))
    }
}

/// Copies each source to its target, all queued at once and shared out to the streams in turns (one alone pauses
/// between copies), and returns when the last has arrived. At the link's rate from pinned memory; other memory
/// works, slowly.
pub fn copy_all(streams: &[Stream], copies: &[(&DeviceSlice<'_>, &[u8])]) -> Result<(), GpuError> {
    if let (Some(stream), true) = (streams.first(), copies.iter().any(|(t, s)| s.len() as u64 > t.bytes)) {
        return Err(stream.gpu.error("queue a copy", "it is longer than its target; please report this"));
    }
    let queued = copies.iter().zip(streams.iter().cycle()).try_for_each(|((target, source), stream)| {
        // SAFETY: the sources are borrowed until this function returns, and it synchronizes first, whatever fails.
        unsafe { stream.queue(target, 0, source) }
    });
    streams.iter().map(Stream::synchronize).fold(queued, Result::and)
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

    /// Queues a copy of the first `bytes` bytes to each target, one for each stream.
    pub fn copy_to(
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
            // which waits for the event recorded behind this copy.
            unsafe { stream.queue(target, 0, &self.pinned.as_slice()[..bytes]) }?;
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

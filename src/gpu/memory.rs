//! Device memory, and host memory that is pinned for it.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

use crate::gpu::stream::Users;
use crate::gpu::{Gpu, GpuError};
use crate::node::memory::available_bytes;
use crate::os::cancel::Cancel;
use crate::os::memory::{CallerMemory, HostBuffer};
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::threads;

/// CUDA gives out memory from this size on in pages of its own, aligned to 2 MiB.
const LARGE_BYTES: u64 = 2 << 20;

/// One allocation of device memory, aligned to 4 KiB as direct reads want it; or memory of the caller's, as that is.
pub struct DeviceBuffer {
    gpu: Arc<Gpu>,
    /// What the driver gave, and the first aligned address in it.
    allocation: u64,
    address: u64,
    bytes: u64,
    /// Whether it is freed in the end.
    is_own: bool,
    users: Users,
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
                Ok(DeviceBuffer {
                    gpu: gpu.clone(),
                    allocation,
                    address,
                    bytes,
                    is_own: true,
                    users: Users::default(),
                })
            }
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free_bytes = gpu.memory_info().map(|(free, _)| free).ok();
                let free = free_bytes.map_or("unknown".to_string(), |free| free.to_string());
                let what = format!(
                    "{bytes} bytes of device memory are needed and {free} are free: end other processes on this GPU \
                     (nvidia-smi), name more GPUs, or load a smaller checkpoint"
                );
                Err(gpu.fail(&what)(e).lacking(bytes, free_bytes))
            }
            Err(e) => Err(gpu.fail(&format!("allocate {bytes} bytes"))(e)),
        }
    }

    /// The caller's memory as a buffer. Refuses a range that does not lie in memory of this GPU's context, or of another
    /// process that this one has opened. Of memory that was mapped piece by piece it may span several pieces, as torch's
    /// expandable segments do; of plain allocations never, since two may be neighbours by chance.
    pub fn of_caller(gpu: &Arc<Gpu>, memory: &CallerMemory) -> Result<DeviceBuffer, GpuError> {
        let (address, bytes) = (memory.address(), memory.bytes());
        gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
        let what = format!("load into {bytes} bytes at {address:#x}");
        let Some(end) = address.checked_add(bytes) else {
            return Err(gpu.error(&what, "it goes past the last address"));
        };
        let (mut allocation, mut covered_to) = (address, address);
        while covered_to < end {
            let (mut start, mut size) = (0, 0usize);
            // SAFETY: the context is current, and both results are written to this frame.
            let code = unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut size, covered_to) };
            code.result().map_err(gpu.fail(&what))?;
            let next = start.saturating_add(size as u64);
            if next <= covered_to || (next < end && !is_mapped(gpu, start)?) {
                let why = format!("the allocation there has {size} bytes from {start:#x} on");
                return Err(gpu.error(&what, &why));
            }
            if covered_to == address {
                allocation = start;
            }
            covered_to = next;
        }
        Ok(DeviceBuffer {
            gpu: gpu.clone(),
            allocation,
            address,
            bytes,
            is_own: false,
            users: Users::default(),
        })
    }

    /// Whether it is the caller's: what lies between the bytes of a load is not to be touched.
    pub fn is_callers(&self) -> bool {
        !self.is_own
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
        DeviceSlice {
            allocation: self.allocation,
            address: self.address,
            bytes: self.bytes,
            users: &self.users,
            owner: PhantomData,
        }
    }

    /// Copies `out.len()` bytes from `offset` back to the host, and waits.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), GpuError> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            let what = format!("read {} bytes at {offset}", out.len());
            return Err(self.gpu.error(&what, &format!("the buffer has {} bytes", self.bytes)));
        }
        self.gpu.context.bind_to_thread().map_err(self.gpu.fail("make its context current"))?;
        // SAFETY: the range lies within this live allocation, and the call returns when the bytes are in `out`.
        unsafe { result::memcpy_dtoh_sync(out, self.address + offset) }
            .map_err(self.gpu.fail("copy to the host"))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // Copies may have been queued and left, even by whoever forgot their stream: none reaches what comes here next.
        self.users.wait();
        if self.is_own && self.gpu.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `new` and freed once; copies from and to it have ended: those that return at once are
            // among its users, the others borrow it until they are done. A failure means a lost context, whose memory the
            // driver frees.
            let _ = unsafe { result::free_sync(self.allocation) };
        }
    }
}

/// Whether memory was mapped by `cuMemMap`, not given out by `cuMemAlloc`: only the latter has handles for other processes.
fn is_mapped(gpu: &Gpu, address: u64) -> Result<bool, GpuError> {
    let mut has_handles = 0u32;
    let what = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE;
    // SAFETY: the attribute is an int, which is written to this frame.
    let code = unsafe { sys::cuPointerGetAttribute((&raw mut has_handles).cast(), what, address) };
    code.result().map_err(gpu.fail("ask how memory was allocated"))?;
    Ok(has_handles == 0)
}

/// A range of device memory that is written to, and not freed meanwhile. Rust sees none of its bytes: two that overlap would
/// mix them up, and harm nothing else. Whole buffers and their splits never do; who takes parts answers for it.
#[derive(Debug)]
pub struct DeviceSlice<'a> {
    /// Where its allocation begins.
    pub(super) allocation: u64,
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Of the whole allocation: where streams are noted that copy from or to this after a call returned.
    pub(super) users: &'a Users,
    owner: PhantomData<&'a mut DeviceBuffer>,
}

impl<'a> DeviceSlice<'a> {
    /// Of no memory at all.
    #[cfg(test)]
    pub(super) fn made_up(address: u64, bytes: u64, users: &'a Users) -> DeviceSlice<'a> {
        DeviceSlice { allocation: address, address, bytes, users, owner: PhantomData }
    }

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
            DeviceSlice { bytes: first, ..self },
            DeviceSlice { address: self.address + first, bytes: self.bytes - first, ..self },
        )
    }

    /// A range of it; shorter where it ends before that.
    pub fn part(&self, offset: u64, bytes: u64) -> DeviceSlice<'a> {
        let offset = offset.min(self.bytes);
        DeviceSlice {
            allocation: self.allocation,
            address: self.address + offset,
            bytes: bytes.min(self.bytes - offset),
            ..*self
        }
    }

    /// Copies `bytes` to `offset`, and returns when `bytes` may change again; [`Gpu::synchronize`] tells when they
    /// have arrived. How the baseline and tests write.
    pub fn write(&mut self, gpu: &Gpu, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.bytes) {
            let what = format!("write {} bytes at {offset}", bytes.len());
            return Err(gpu.error(&what, &format!("the range has {} bytes", self.bytes)));
        }
        gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
        // SAFETY: the range lies within a live allocation; the call returns when it is done
        // with `bytes`.
        unsafe { result::memcpy_htod_sync(self.address + offset, bytes) }
            .map_err(gpu.fail("copy to the device"))
    }
}

/// Host memory that devices read directly: a [`HostBuffer`], registered with the driver for all contexts.
pub(super) struct PinnedArena {
    pub(super) gpu: Arc<Gpu>,
    buffer: HostBuffer,
}

impl Drop for PinnedArena {
    fn drop(&mut self) {
        if self.gpu.context.bind_to_thread().is_ok() {
            // SAFETY: registered by `pin` and unregistered once, before the buffer goes. Copies from it have
            // ended: Slot waits for its own, and `Stream` waits before it returns from those of whole pieces.
            let _ = unsafe { sys::cuMemHostUnregister(self.buffer.as_mut_slice().as_mut_ptr().cast()) };
        }
    }
}

/// An exclusive piece of pinned memory. Pieces pinned together share one registration, which ends with the
/// last of them.
pub struct Pinned {
    start: NonNull<u8>,
    pub(super) bytes: usize,
    pub(super) arena: Arc<PinnedArena>,
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

    /// The `bytes` bytes from its byte `from` on, of it and of the pieces behind it.
    ///
    /// # Safety
    /// Pieces of the same arena that are borrowed as long, each right behind the one before, cover them.
    pub(super) unsafe fn as_slice_past_its_end(&self, from: usize, bytes: usize) -> &[u8] {
        // SAFETY: by the contract one initialised range within the arena, which `start` points into, and nobody has a
        // piece of it exclusively.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(from), bytes) }
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
        Some(free) if bytes > free => Err(gpu
            .error(
                &format!("pin {bytes} bytes of host memory (ask for a smaller ring or pool)"),
                &format!("{free} bytes are available"),
            )
            .lacking(bytes, Some(free))),
        _ => Ok(()),
    }
}

/// Pins `count` pieces of `bytes` bytes (rounded up to 4 KiB), with `threads` threads. Small pieces share a
/// registration: one each would queue at the driver's lock. The memory comes from the GPU's NUMA node, where it may.
pub fn pin(gpu: &Arc<Gpu>, bytes: u64, count: usize, threads: usize) -> Result<Vec<Pinned>, GpuError> {
    pin_for(std::slice::from_ref(gpu), bytes, count, threads)
}

/// The same for several GPUs, registered through the first: spread over their nodes, where these are several.
pub fn pin_for(gpus: &[Arc<Gpu>], bytes: u64, count: usize, threads: usize) -> Result<Vec<Pinned>, GpuError> {
    let Some(gpu) = gpus.first() else { return Ok(Vec::new()) };
    let nodes: Vec<u32> = gpus.iter().filter_map(|gpu| gpu.numa_node).collect();
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
            let (pieces_here, threads_here) = (per_arena.min(count - first), threads.div_ceil(side_by_side));
            let arena = pin_arena(gpu, &nodes, piece_bytes, pieces_here, threads_here)?;
            pieces.lock().unwrap_or_else(|e| e.into_inner()).extend(arena);
        }
    };
    std::thread::scope(|scope| {
        // Those that the system gives; the caller where it gives none.
        let started: Vec<_> = (0..side_by_side).map_while(|_| threads::start(scope, run).ok()).collect();
        if started.is_empty() {
            return run();
        }
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
    nodes: &[u32],
    piece_bytes: u64,
    count: usize,
    threads: usize,
) -> Result<Vec<Pinned>, GpuError> {
    let no_memory = |what: String| gpu.error(&what, "no host memory");
    let total = piece_bytes.saturating_mul(count as u64);
    let mut buffer = HostBuffer::new(total).map_err(|e| no_memory(format!("{e:#}")).lacking(total, None))?;
    buffer.place(nodes);
    buffer.prefault(threads, &Cancel::new());
    gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
    let memory = buffer.as_mut_slice();
    let first = NonNull::from(&mut *memory).cast::<u8>();
    // SAFETY: the range is mapped, owned by `buffer`, and stays so until PinnedArena's Drop has unregistered it.
    let code = unsafe {
        sys::cuMemHostRegister_v2(memory.as_mut_ptr().cast(), memory.len(), sys::CU_MEMHOSTREGISTER_PORTABLE)
    };
    let what = format!(
        "pin {total} bytes of host memory (if they are locked or limited, raise `ulimit -l` and the container's \
         memory limit, or ask for a smaller ring or pool)"
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

//! Host memory that is pinned for devices.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::sys;

use crate::gpu::{Gpu, GpuError};
use crate::node::memory::available_bytes;
use crate::os::cancel::Cancel;
use crate::os::memory::{HostBuffer, NoHostMemory};
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text::size;
use crate::os::threads;

/// Host memory that devices read directly: a [`HostBuffer`], registered with the driver for all contexts; without a GPU it
/// is plain memory.
pub(super) struct PinnedArena {
    /// Through which it is registered.
    gpu: Option<Arc<Gpu>>,
    buffer: HostBuffer,
}

impl PinnedArena {
    /// An error that is not the driver's.
    pub(super) fn error(&self, what: &str, cause: &str) -> GpuError {
        match &self.gpu {
            Some(gpu) => gpu.error(what, cause),
            None => GpuError::of_none(what, cause),
        }
    }

    /// Its pieces.
    fn cut(mut self, piece_bytes: u64, count: usize) -> Vec<Pinned> {
        let first = NonNull::from(self.buffer.as_mut_slice()).cast::<u8>();
        let arena = Arc::new(self);
        let piece = |i: usize| Pinned {
            // SAFETY: the buffer has room for `count` pieces of this size, so the offset is within it.
            start: unsafe { first.add(i * piece_bytes as usize) },
            bytes: piece_bytes as usize,
            arena: arena.clone(),
        };
        (0..count).map(piece).collect()
    }
}

impl Drop for PinnedArena {
    fn drop(&mut self) {
        if self.gpu.as_ref().is_some_and(|gpu| gpu.context.bind_to_thread().is_ok()) {
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
                &format!("pin {} of host memory (ask for a smaller ring or pool)", size(bytes)),
                &format!("{} are available", size(free)),
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

/// The same for several GPUs, registered through the first: spread over their nodes, where these are several. For none it is
/// plain memory.
pub fn pin_for(gpus: &[Arc<Gpu>], bytes: u64, count: usize, threads: usize) -> Result<Vec<Pinned>, GpuError> {
    let gpu = gpus.first();
    let nodes: Vec<u32> = gpus.iter().filter_map(|gpu| gpu.numa_node).collect();
    let piece_bytes = align_up(bytes.max(1), DIRECT_ALIGN);
    if let Some(gpu) = gpu {
        check_room(gpu, piece_bytes.saturating_mul(count as u64))?;
    }
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
    gpu: Option<&Arc<Gpu>>,
    nodes: &[u32],
    piece_bytes: u64,
    count: usize,
    threads: usize,
) -> Result<Vec<Pinned>, GpuError> {
    let total = piece_bytes.saturating_mul(count as u64);
    let no_memory = |e: NoHostMemory| {
        let (what, cause) = (format!("{e:#}"), "no host memory");
        gpu.map_or_else(|| GpuError::of_none(&what, cause), |gpu| gpu.error(&what, cause))
            .lacking(total, None)
    };
    let mut buffer = HostBuffer::new(total).map_err(no_memory)?;
    buffer.place(nodes);
    buffer.prefault(threads, &Cancel::new());
    if let Some(gpu) = gpu {
        register(gpu, &mut buffer)?;
    }
    Ok(PinnedArena { gpu: gpu.cloned(), buffer }.cut(piece_bytes, count))
}

/// Registers all of a buffer, for all contexts.
fn register(gpu: &Arc<Gpu>, buffer: &mut HostBuffer) -> Result<(), GpuError> {
    gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
    let memory = buffer.as_mut_slice();
    // SAFETY: the range is mapped, owned by `buffer`, and stays so until PinnedArena's Drop, to which the caller gives it, has
    // unregistered it.
    let code = unsafe {
        sys::cuMemHostRegister_v2(memory.as_mut_ptr().cast(), memory.len(), sys::CU_MEMHOSTREGISTER_PORTABLE)
    };
    let what = format!(
        "pin {} bytes of host memory (if they are locked or limited, raise `ulimit -l` and the container's \
         memory limit, or ask for a smaller ring or pool)",
        memory.len()
    );
    code.result().map_err(gpu.fail(&what))
}

//! Device memory where bytes arrive as they lie in a buffer, to be taken to their places from there.

use std::sync::Arc;

use cudarc::driver::result;

use crate::gpu::copies::Stream;
use crate::gpu::kernels::{self, Move};
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};
use crate::gpu::pinned::{Pinned, pin};
use crate::gpu::scatter::Piece;
use crate::gpu::{Gpu, GpuError};
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Each copy costs some 3 µs beside its bytes: more pieces than this are taken to their places by one kernel.
const FEW_PIECES: usize = 4;

/// Whether pieces go each as a copy.
pub(super) fn are_few(pieces: &[(Piece, DeviceSlice<'_>)]) -> bool {
    pieces.len() <= FEW_PIECES && pieces.iter().all(|(piece, _)| piece.rows == 1)
}

/// Queues a copy for each of a few pieces of `source`.
///
/// # Safety
/// `source` stays as it is until an event that is recorded on `stream` after this has come. Each piece lies within it.
pub(super) unsafe fn copy_each(
    stream: &Stream,
    source: &[u8],
    landing: &[(Piece, DeviceSlice<'_>)],
) -> Result<(), GpuError> {
    landing.iter().try_for_each(|(piece, slice)| {
        slice.users.add(&stream.queue);
        let from = &source[piece.from as usize..][..piece.bytes as usize];
        // SAFETY: our own contract; the piece fits its target (`Targets::of`), which is freed only after this stream has come past
        // the copy, as it is among its users.
        unsafe { stream.queue_at(slice.address, from) }
    })
}

/// Memory of one GPU that bytes pass through.
pub(super) struct Staging {
    memory: DeviceBuffer,
    /// Made at first use.
    table: Option<Table>,
}

/// What a kernel is told.
pub(super) struct Table {
    pub(super) pinned: Pinned,
    pub(super) on_device: DeviceBuffer,
}

impl Staging {
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Staging, GpuError> {
        Ok(Staging { memory: DeviceBuffer::new(gpu, bytes)?, table: None })
    }

    /// Queues a copy of `source` into it.
    ///
    /// # Safety
    /// `source` stays as it is until an event that is recorded on `stream` after this has come; what is taken from the staging
    /// by other streams has ended before, or `stream` waits for it. `source` is no longer than the staging.
    pub(super) unsafe fn fill(&mut self, stream: &Stream, source: &[u8]) -> Result<(), GpuError> {
        let memory = self.memory.as_mut_slice();
        assert!(source.len() as u64 <= memory.bytes(), "a copy must stay within its target");
        memory.users.add(&stream.queue);
        // SAFETY: our own contract; the memory is freed only when this stream has come past the copy.
        unsafe { stream.queue_at(memory.address(), source) }
    }

    /// Queues what takes pieces of it to their places, on this GPU or on another whose memory is open to it: few as copies,
    /// many by a kernel.
    ///
    /// # Safety
    /// Each piece lies within what the staging was filled with, on `stream` or before something that this has waited for; and
    /// where there are many, what the last call of this queued has ended.
    pub(super) unsafe fn deliver(
        &mut self,
        stream: &Stream,
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        self.memory.as_mut_slice().users.add(&stream.queue);
        let allocations = landing.chunk_by(|(_, a), (_, b)| std::ptr::eq(a.users, b.users));
        allocations.filter_map(<[_]>::first).for_each(|(_, slice)| slice.users.add(&stream.queue));
        if are_few(landing) {
            stream.gpu.make_current()?;
            return landing.iter().try_for_each(|(piece, slice)| {
                let from = self.memory.address() + piece.from;
                // SAFETY: the piece lies within the staging, by our own contract, and fits its target (`Targets::of`); both
                // are freed only when this stream has come past the copy, as they have it among their users.
                unsafe {
                    result::memcpy_dtod_async(slice.address, from, piece.bytes as usize, stream.queue.raw())
                }
                .map_err(stream.gpu.fail("queue a copy"))
            });
        }
        let moves: Vec<Move> =
            landing.iter().flat_map(|(piece, slice)| Move::all_of(piece, slice.address)).collect();
        let bytes = kernels::move_bytes(&moves);
        let table = Table::large_enough(&mut self.table, &stream.gpu, bytes.len())?;
        table.pinned.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        table.on_device.as_mut_slice().users.add(&stream.queue);
        // SAFETY: nothing reads the table any more, by our own contract, and whoever owns the staging waits for this stream
        // before it goes. Each move reads within the staging, and writes within its target.
        unsafe {
            stream.queue_at(table.on_device.address(), &table.pinned.as_slice()[..bytes.len()])?;
            kernels::scatter(stream, &self.memory, &table.on_device, moves.len())
        }
    }
}

impl Table {
    /// What there is where it is large enough; else new. Nothing uses the old.
    pub(super) fn large_enough<'t>(
        made: &'t mut Option<Table>,
        gpu: &Arc<Gpu>,
        bytes: usize,
    ) -> Result<&'t mut Table, GpuError> {
        let table = match made.take() {
            Some(table) if table.pinned.bytes >= bytes => table,
            // Twice what is needed: the next copy has about as many pieces.
            _ => Table::new(gpu, 2 * bytes as u64)?,
        };
        Ok(made.insert(table))
    }

    /// Both sides are as large: pinning rounds up to pages.
    fn new(gpu: &Arc<Gpu>, bytes: u64) -> Result<Table, GpuError> {
        let bytes = align_up(bytes, DIRECT_ALIGN);
        let none = || gpu.error("use a slot of the ring", "no memory came for its table; please report this");
        Ok(Table {
            pinned: pin(gpu, bytes, 1, 1)?.pop().ok_or_else(none)?,
            on_device: DeviceBuffer::new(gpu, bytes)?,
        })
    }
}

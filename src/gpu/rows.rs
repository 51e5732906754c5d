//! Copies of rows that lie apart where they come from, and side by side, or apart, where they land: one call for all of
//! them, since a call a row would cost some 3 µs each.

use cudarc::driver::sys;

use crate::gpu::GpuError;
use crate::gpu::copies::Stream;
use crate::gpu::memory::DeviceSlice;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::Piece;

/// Rows of a pinned piece, on their way to a device.
pub struct RowsCopy<'a> {
    /// From the first byte that is written to the last.
    pub target: DeviceSlice<'a>,
    pub source: &'a Pinned,
    pub piece: Piece,
}

impl Stream {
    /// Copies all rows, all queued at once, and returns when the last has arrived.
    pub fn copy_rows(&self, copies: &[RowsCopy<'_>]) -> Result<(), GpuError> {
        let queued = copies.iter().try_for_each(|RowsCopy { target, source, piece }| {
            self.check_rows(piece, source.bytes as u64, target)?;
            let mut copy = rows_of(piece, target);
            copy.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
            copy.srcHost = source.as_slice()[piece.from as usize..].as_ptr().cast();
            // SAFETY: `check_rows` has seen that all rows lie within the source and the target, which are borrowed until
            // this function returns, and it synchronizes first, whatever fails.
            unsafe { self.queue_rows(&copy) }
        });
        queued.and(self.synchronize())
    }

    /// Queues a copy of rows of device memory to another place, which may be on another GPU. It goes on when the ranges are
    /// no longer borrowed; their allocations are freed only when it has ended.
    pub fn copy_rows_between(
        &self,
        from: &DeviceSlice<'_>,
        to: &DeviceSlice<'_>,
        piece: &Piece,
    ) -> Result<(), GpuError> {
        self.check_rows(piece, from.bytes, to)?;
        [from, to].iter().for_each(|range| range.users.add(&self.queue));
        let mut copy = rows_of(piece, to);
        // Unified: the driver finds out whose each address is.
        copy.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
        copy.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
        copy.srcDevice = from.address + piece.from;
        // SAFETY: all rows lie within both ranges, whose allocations wait for this stream before they are freed.
        unsafe { self.queue_rows(&copy) }
    }

    fn check_rows(&self, piece: &Piece, source_bytes: u64, target: &DeviceSlice<'_>) -> Result<(), GpuError> {
        let is_within = piece.from_end().is_some_and(|end| end <= source_bytes);
        let fits = piece.to_end().is_some_and(|end| end - piece.to <= target.bytes);
        match is_within && fits && piece.from_stride >= piece.bytes && piece.to_stride >= piece.bytes {
            true => Ok(()),
            false => Err(self.gpu.error("queue a copy of rows", "they do not fit; please report this")),
        }
    }

    /// # Safety
    /// All rows are within memory that stays allocated, the target the caller's alone, until the stream has come past this.
    unsafe fn queue_rows(&self, copy: &sys::CUDA_MEMCPY2D) -> Result<(), GpuError> {
        self.gpu.make_current()?;
        // SAFETY: our own contract; `copy` is read before the call returns.
        unsafe { sys::cuMemcpy2DAsync_v2(copy, self.queue.raw()) }
            .result()
            .map_err(self.gpu.fail("queue a copy of rows"))
    }
}

/// Where the rows go; whence is for the caller to say.
fn rows_of(piece: &Piece, target: &DeviceSlice<'_>) -> sys::CUDA_MEMCPY2D {
    sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: std::ptr::null(),
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        srcPitch: piece.from_stride as usize,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: target.address,
        dstArray: std::ptr::null_mut(),
        dstPitch: piece.to_stride as usize,
        WidthInBytes: piece.bytes as usize,
        Height: piece.rows as usize,
    }
}

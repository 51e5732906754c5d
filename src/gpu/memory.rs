//! Device memory.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::gpu::stream::Users;
use crate::gpu::{Gpu, GpuError};
use crate::os::memory::CallerMemory;
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text::size;

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
        let with_spare = bytes.max(1).saturating_add(spare) as usize;
        gpu.context.bind_to_thread().map_err(gpu.fail("make its context current"))?;
        // SAFETY: the context is current on this thread; the address is only used through this owner.
        match unsafe { result::malloc_sync(with_spare) } {
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
                let free = free_bytes.map_or("an unknown part".to_string(), size);
                let what = format!(
                    "{} of device memory are needed and {free} are free: end other processes on this GPU (nvidia-smi), name \
                     more GPUs, or load a smaller checkpoint",
                    size(bytes)
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
        Ok(DeviceBuffer {
            gpu: gpu.clone(),
            allocation: allocation_of(gpu, memory)?,
            address: memory.address(),
            bytes: memory.bytes(),
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

    /// Sets `bytes` bytes from `offset` on to `value`, and waits.
    pub fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), GpuError> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let what = format!("fill {bytes} bytes at {offset}");
            return Err(self.gpu.error(&what, &format!("the buffer has {} bytes", self.bytes)));
        }
        self.gpu.make_current()?;
        // SAFETY: the range lies within this live allocation, and the context is current.
        let code = unsafe { sys::cuMemsetD8_v2(self.address + offset, value, bytes as usize) };
        code.result().map_err(self.gpu.fail("fill memory"))?;
        self.gpu.synchronize()
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

/// Where the allocation begins that a range of the caller's lies in, as [`DeviceBuffer::of_caller`] takes it.
fn allocation_of(gpu: &Gpu, memory: &CallerMemory) -> Result<u64, GpuError> {
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
    Ok(allocation)
}

/// Memory of the caller's that comes bit by bit, all on one GPU: what was copied to it has ended when this drops.
pub struct CallerSlices {
    gpu: Arc<Gpu>,
    users: Users,
}

impl CallerSlices {
    pub fn new(gpu: &Arc<Gpu>) -> CallerSlices {
        CallerSlices { gpu: gpu.clone(), users: Users::default() }
    }

    /// A range of it. Refuses what [`DeviceBuffer::of_caller`] does.
    pub fn slice(&self, memory: &CallerMemory) -> Result<DeviceSlice<'_>, GpuError> {
        let allocation = allocation_of(&self.gpu, memory)?;
        let (address, bytes) = (memory.address(), memory.bytes());
        Ok(DeviceSlice { allocation, address, bytes, users: &self.users, owner: PhantomData })
    }
}

impl Drop for CallerSlices {
    fn drop(&mut self) {
        self.users.wait();
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

//! Device memory that goes from process to process by CUDA's handles: those of `cuMemAlloc`, good on one machine.

use std::ffi::c_char;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{Gpu, GpuError};

/// Bytes of a handle.
pub const HANDLE_BYTES: usize = 64;

/// A handle, to be sent to another process.
pub type Handle = [u8; HANDLE_BYTES];

/// The handle of a buffer, which must live as long as others have it open.
pub fn handle_of(buffer: &DeviceBuffer) -> Result<Handle, GpuError> {
    let gpu = buffer.gpu();
    gpu.make_current()?;
    let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE_BYTES] };
    // SAFETY: the context is current, the address is that of a live buffer, and the result is written to this frame.
    let code = unsafe { sys::cuIpcGetMemHandle(&mut handle, buffer.address()) };
    code.result().map_err(gpu.fail("make a handle of its memory for another process"))?;
    Ok(handle.reserved.map(|byte| byte as u8))
}

/// Another process's memory, open in this one. If that process ends, the memory stays until this is dropped.
pub struct Imported {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: u64,
}

impl Imported {
    /// Opens a handle. The driver refuses those of this process, of memory that is gone, and all else.
    pub fn open(gpu: &Arc<Gpu>, handle: &Handle) -> Result<Imported, GpuError> {
        gpu.make_current()?;
        let handle = sys::CUipcMemHandle { reserved: handle.map(|byte| byte as c_char) };
        let lazy = sys::CUipcMem_flags_enum::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut address = 0;
        // SAFETY: the context is current; the driver checks the handle, and writes the address to this frame.
        let code = unsafe { sys::cuIpcOpenMemHandle_v2(&mut address, handle, lazy) };
        code.result().map_err(gpu.fail(
            "open another process's memory (its handle must be of a live cudaMalloc allocation of a process that sees the \
             same GPU; containers must share the PID and IPC namespaces)",
        ))?;
        let mut imported = Imported { gpu: gpu.clone(), address, bytes: 0 };
        let (mut start, mut size) = (0, 0usize);
        // SAFETY: the context is current, and both results are written to this frame.
        let code = unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut size, address) };
        code.result().map_err(gpu.fail("ask how large another process's memory is"))?;
        imported.bytes = (size as u64).saturating_sub(address - start);
        Ok(imported)
    }

    /// The GPU that it lies on.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Its address in this process.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes from there to its end.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn check(&self, what: &str, offset: u64, bytes: u64) -> Result<(), GpuError> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let what = format!("{what} {bytes} bytes at {offset} of another process's memory");
            return Err(self.gpu.error(&what, &format!("it has {} bytes", self.bytes)));
        }
        Ok(())
    }

    /// Copies `out.len()` bytes from `offset` on to the host, and waits.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), GpuError> {
        self.check("read", offset, out.len() as u64)?;
        self.gpu.make_current()?;
        // SAFETY: the range lies within memory that stays open as long as this lives, and the call returns when the bytes are in
        // `out`.
        unsafe { result::memcpy_dtoh_sync(out, self.address + offset) }
            .map_err(self.gpu.fail("copy another process's memory to the host"))
    }

    /// Sets `bytes` bytes from `offset` on to `value`, and waits.
    pub fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), GpuError> {
        self.check("fill", offset, bytes)?;
        self.gpu.make_current()?;
        // SAFETY: the range lies within memory that stays open as long as this lives, and the context is current.
        let code = unsafe { sys::cuMemsetD8_v2(self.address + offset, value, bytes as usize) };
        code.result().map_err(self.gpu.fail("fill another process's memory"))?;
        self.gpu.synchronize()
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: opened by `open` and closed once; whoever copies to it borrows it or waits before it goes. A failure
            // means a lost context, with which the mapping went.
            let _ = unsafe { sys::cuIpcCloseMemHandle(self.address) };
        }
    }
}

//! CUDA devices, through cudarc. cudarc panics where libcuda or a symbol is missing, so everything here
//! probes first.

use cudarc::driver::{CudaContext, result, sys};

/// One CUDA device.
#[derive(Debug, Clone)]
pub struct Device {
    pub index: usize,
    pub name: String,
    pub memory_bytes: u64,
}

/// The CUDA devices, or one line that says why there are none.
pub fn devices() -> Result<Vec<Device>, String> {
    if !library_is_here() {
        return Err("libcuda.so.1 is not installed; it comes with NVIDIA's driver".into());
    }
    result::init().map_err(|e| format!("the CUDA driver does not start: {e}"))?;
    let count = CudaContext::device_count().map_err(|e| format!("the CUDA driver counts no devices: {e}"))?;
    if count == 0 {
        return Err("the CUDA driver sees no device; look at CUDA_VISIBLE_DEVICES and nvidia-smi".into());
    }
    (0..count.max(0) as usize).map(device).collect()
}

fn device(index: usize) -> Result<Device, String> {
    let read = || {
        let ordinal = result::device::get(index as i32)?;
        let name = result::device::get_name(ordinal)?;
        // SAFETY: `ordinal` came from `device::get` of an initialised driver.
        let memory_bytes = unsafe { result::device::total_mem(ordinal) }? as u64;
        Ok(Device { index, name, memory_bytes })
    };
    read().map_err(|e: result::DriverError| format!("CUDA device {index} does not answer: {e}"))
}

fn library_is_here() -> bool {
    // SAFETY: only tries to open libcuda.so; its initialisers are NVIDIA's and sound to run.
    unsafe { sys::is_culib_present() }
}

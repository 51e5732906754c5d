//! What one GPU can do with the memory of another.

use std::sync::Arc;

use cudarc::driver::sys;

use crate::gpu::{Gpu, GpuError};

/// How one GPU gets at another's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The two are one.
    Itself,
    /// By NVLink: several times as fast as PCIe.
    NvLink,
    /// Over PCIe, where it takes the room of what comes from host memory.
    Pcie,
    /// Only by way of host memory.
    None,
}

/// How `from` reaches the memory of `to`. Nothing is opened for it.
pub fn reach(from: &Gpu, to: &Gpu) -> Result<Reach, GpuError> {
    use sys::CUdevice_P2PAttribute_enum as A;
    if from.index == to.index {
        return Ok(Reach::Itself);
    }
    let ask = |attribute| {
        let mut value = 0;
        let (from_device, to_device) = (from.context.cu_device(), to.context.cu_device());
        // SAFETY: both are devices of an initialised driver, and the answer is written to this frame.
        let code = unsafe { sys::cuDeviceGetP2PAttribute(&mut value, attribute, from_device, to_device) };
        code.result().map_err(from.fail(&format!("ask how it reaches GPU {}", to.label)))?;
        Ok(value != 0)
    };
    if !ask(A::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED)? {
        return Ok(Reach::None);
    }
    // Atomics on another GPU's memory work over NVLink, and over PCIe they do not.
    match ask(A::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)? {
        true => Ok(Reach::NvLink),
        false => Ok(Reach::Pcie),
    }
}

/// Lets `from` write to the memory of `to`. It holds for the whole process, as long as the context of `from`; there is no harm
/// in asking twice.
pub fn open(from: &Arc<Gpu>, to: &Arc<Gpu>) -> Result<(), GpuError> {
    if from.index == to.index {
        return Ok(());
    }
    from.make_current()?;
    // SAFETY: a context is current on this thread, and the other one lives as long as its `Gpu`.
    let code = unsafe { sys::cuCtxEnablePeerAccess(to.context.cu_ctx(), 0) };
    match code {
        sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
        code => code.result().map_err(from.fail(&format!("open the memory of GPU {}", to.label))),
    }
}

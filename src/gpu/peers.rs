//! What one GPU can do with the memory of another.

use std::sync::Arc;

use cudarc::driver::{result, sys};

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
    let ask = |what| {
        let value = attribute(what, from.index, to.index);
        value.map(|value| value != 0).map_err(from.fail(&format!("ask how it reaches GPU {}", to.label)))
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

/// What the driver says of two CUDA devices, by their indices.
pub(super) fn attribute(
    what: sys::CUdevice_P2PAttribute,
    from: usize,
    to: usize,
) -> Result<i32, result::DriverError> {
    let from = result::device::get(from as i32)?;
    let to = result::device::get(to as i32)?;
    let mut value = 0;
    // SAFETY: the result is written to this frame, and both devices came from `device::get` of an initialised driver.
    unsafe { sys::cuDeviceGetP2PAttribute(&mut value, what, from, to) }.result()?;
    Ok(value)
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

//! CUDA devices: contexts, memory, copies, kernels. The safe layer over cudarc's `sys` (raw) and `result`
//! (checked). cudarc panics where libcuda or a symbol is missing, so everything here probes first.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, result, sys};

use crate::gpu::module::{self, MADE_BY, Module};
use crate::gpu::sticky::is_sticky;

/// What went wrong, with the device and the driver's own name for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("GPU {gpu}: {what}: {cause}")]
pub struct GpuError {
    pub(super) gpu: String,
    pub(super) what: String,
    pub(super) cause: String,
    /// The driver's, where it is the driver that refused.
    pub(super) code: Option<u32>,
    /// Where memory is short: bytes that were asked for, and those that are free.
    pub(super) lacks: Option<(u64, Option<u64>)>,
}

impl GpuError {
    /// Where memory is short: bytes that were asked for, and those that are free, where that is known.
    pub fn lacks(&self) -> Option<(u64, Option<u64>)> {
        self.lacks
    }

    /// Whether the context is lost with it, so that nothing works there any more ([`is_sticky`]).
    pub fn breaks_context(&self) -> bool {
        self.code.is_some_and(is_sticky)
    }

    /// An error of the driver's with this code, for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn made_up(code: u32) -> GpuError {
        let (gpu, what, cause) = ("0".into(), "finish a copy".into(), format!("code {code}"));
        GpuError { gpu, what, cause, code: Some(code), lacks: None }
    }

    /// An error where no GPU is.
    pub(super) fn of_none(what: &str, cause: &str) -> GpuError {
        GpuError { gpu: "none".into(), what: what.into(), cause: cause.into(), code: None, lacks: None }
    }

    pub(super) fn lacking(self, needed_bytes: u64, free_bytes: Option<u64>) -> GpuError {
        GpuError { lacks: Some((needed_bytes, free_bytes)), ..self }
    }
}

/// One GPU with its context up.
pub struct Gpu {
    /// As the user named it: an index or a UUID.
    pub label: String,
    /// As CUDA counts under CUDA_VISIBLE_DEVICES.
    pub index: usize,
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
    /// As sysfs spells it: `0000:1b:00.0`.
    pub pci_address: Option<String>,
    /// NUMA node of its PCIe slot, where the system tells.
    pub numa_node: Option<u32>,
    /// Before the context: fields go in this order, and a module must not outlive its context.
    module: OnceLock<Result<Module, (String, result::DriverError)>>,
    pub(super) context: Arc<CudaContext>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "GPU {} ({})", self.label, self.name)
    }
}

impl Gpu {
    fn open(device: &Device, label: &str) -> Result<Gpu, GpuError> {
        let (ordinal, uuid) = (device.index, device.uuid.clone());
        let fail = |what: &str| {
            let (gpu, what) = (label.to_string(), what.to_string());
            move |e| refused(gpu, what, e)
        };
        let context = CudaContext::new(ordinal).map_err(fail("make a context"))?;
        let name = context.name().map_err(fail("ask for its name"))?;
        let memory_bytes = context.total_mem().map_err(fail("ask for its memory"))? as u64;
        let pci_address = pci_address(&context);
        let numa_node = pci_address.as_deref().and_then(numa_node);
        let module = OnceLock::new();
        Ok(Gpu {
            label: label.to_string(),
            index: ordinal,
            uuid,
            name,
            memory_bytes,
            pci_address,
            numa_node,
            context,
            module,
        })
    }

    /// Free and total bytes of device memory now.
    pub fn memory_info(&self) -> Result<(u64, u64), GpuError> {
        let info = self.context.mem_get_info().map_err(self.fail("ask for free memory"))?;
        Ok((info.0 as u64, info.1 as u64))
    }

    /// Makes its context this thread's current one: cuFile works with whichever is.
    pub fn make_current(&self) -> Result<(), GpuError> {
        self.context.bind_to_thread().map_err(self.fail("make its context current"))
    }

    /// Waits for everything on this device.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.context.synchronize().map_err(self.fail("finish its work"))
    }

    /// The kernels, loaded at first use.
    pub(super) fn module(&self) -> Result<&Module, GpuError> {
        self.make_current()?;
        let loaded = self.module.get_or_init(module::load);
        let fail = |what: &str, e| refused(self.label.clone(), format!("{what} (kernels by {MADE_BY})"), e);
        loaded.as_ref().map_err(|(what, e)| fail(what, *e))
    }

    /// An error that is not the driver's.
    pub fn error(&self, what: &str, cause: &str) -> GpuError {
        let (gpu, what, cause) = (self.label.clone(), what.to_string(), cause.to_string());
        GpuError { gpu, what, cause, code: None, lacks: None }
    }

    /// Makes an error of a driver's answer.
    pub(super) fn fail(&self, what: &str) -> impl FnOnce(result::DriverError) -> GpuError + use<> {
        let (gpu, what) = (self.label.clone(), what.to_string());
        move |e| refused(gpu, what, e)
    }
}

/// An error of a driver's answer.
fn refused(gpu: String, what: String, error: result::DriverError) -> GpuError {
    GpuError { gpu, what, cause: cause(error), code: Some(error.0 as u32), lacks: None }
}

/// The driver's name for an error, and its text.
pub(crate) fn cause(error: result::DriverError) -> String {
    let text =
        |s: Result<&std::ffi::CStr, _>| s.map_or("unknown".into(), |s| s.to_string_lossy().into_owned());
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

/// How many CUDA devices there are, or one line that says why there are none.
pub fn count() -> Result<usize, String> {
    if !library_is_here() {
        return Err("libcuda.so.1 is not installed; it comes with NVIDIA's driver".into());
    }
    result::init().map_err(|e| format!("the CUDA driver does not start: {}", cause(e)))?;
    let count =
        CudaContext::device_count().map_err(|e| format!("the driver counts no devices: {}", cause(e)))?;
    if count <= 0 {
        return Err("the CUDA driver sees no device; look at CUDA_VISIBLE_DEVICES and nvidia-smi".into());
    }
    Ok(count as usize)
}

fn library_is_here() -> bool {
    // SAFETY: only tries to open libcuda.so; its initialisers are NVIDIA's and sound to run.
    unsafe { sys::is_culib_present() }
}

/// A device's name and memory, with no context made.
#[derive(Debug, Clone)]
pub struct Device {
    pub index: usize,
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
}

/// The CUDA devices, or one line that says why there are none.
pub fn devices() -> Result<Vec<Device>, String> {
    (0..count()?).map(device).collect()
}

fn device(index: usize) -> Result<Device, String> {
    let read = || -> Result<Device, result::DriverError> {
        let ordinal = result::device::get(index as i32)?;
        let name = result::device::get_name(ordinal)?;
        let uuid = uuid_text(result::device::get_uuid(ordinal)?);
        // SAFETY: `ordinal` came from `device::get` of an initialised driver.
        let memory_bytes = unsafe { result::device::total_mem(ordinal) }? as u64;
        Ok(Device { index, uuid, name, memory_bytes })
    };
    read().map_err(|e| format!("CUDA device {index} does not answer: {}", cause(e)))
}

/// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, as nvidia-smi prints it.
fn uuid_text(uuid: sys::CUuuid) -> String {
    let hex: Vec<String> = uuid.bytes.iter().map(|b| format!("{:02x}", *b as u8)).collect();
    format!(
        "GPU-{}-{}-{}-{}-{}",
        hex[..4].concat(),
        hex[4..6].concat(),
        hex[6..8].concat(),
        hex[8..10].concat(),
        hex[10..].concat()
    )
}

/// Opens the GPUs with these labels (indices under CUDA_VISIBLE_DEVICES, or UUIDs), in this order; one named twice is
/// opened once and stands twice.
pub fn open(labels: &[String]) -> Result<Vec<Arc<Gpu>>, String> {
    let devices = if labels.is_empty() { Vec::new() } else { devices()? };
    let mut gpus: Vec<Arc<Gpu>> = Vec::new();
    for label in labels {
        let index = index_of(label, &devices)?;
        let gpu = match gpus.iter().find(|gpu| gpu.index == index) {
            Some(opened) => opened.clone(),
            None => Arc::new(Gpu::open(&devices[index], label).map_err(|e| e.to_string())?),
        };
        gpus.push(gpu);
    }
    Ok(gpus)
}

/// Opens all that there are.
pub fn open_all() -> Result<Vec<Arc<Gpu>>, String> {
    let labels: Vec<String> = (0..count()?).map(|index| index.to_string()).collect();
    open(&labels)
}

fn index_of(label: &str, devices: &[Device]) -> Result<usize, String> {
    let found = match label.parse::<usize>() {
        Ok(index) => devices.iter().find(|d| d.index == index),
        Err(_) => devices.iter().find(|d| d.uuid == label),
    };
    found.map(|d| d.index).ok_or_else(|| {
        let known: Vec<String> =
            devices.iter().map(|d| format!("{} ({}, {})", d.index, d.name, d.uuid)).collect();
        format!("there is no GPU {label}; those that are there: {}", known.join(", "))
    })
}

/// Its PCIe address, as sysfs spells it.
fn pci_address(context: &CudaContext) -> Option<String> {
    use sys::CUdevice_attribute_enum as A;
    let domain = context.attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID).ok()?;
    let bus = context.attribute(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID).ok()?;
    let slot = context.attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID).ok()?;
    Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.0"))
}

/// The NUMA node that sysfs gives for a PCIe address.
fn numa_node(address: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/bus/pci/devices/{address}/numa_node")).ok()?.trim().parse().ok()
}

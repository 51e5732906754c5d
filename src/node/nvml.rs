//! What NVIDIA's management library tells of each GPU. A missing library or driver is an answer, not a crash.

use nvml_wrapper::enum_wrappers::device::{
    Clock, ComputeMode, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use crate::node::source::{Source, Unread};

/// One GPU as NVML tells it. What a GPU or driver does not support is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// As NVML and nvidia-smi count; CUDA may count otherwise.
    pub index: u32,
    /// `GPU-xxxxxxxx-…`
    pub uuid: String,
    pub name: String,
    /// As sysfs writes it: `0000:17:00.0`.
    pub pci_address: String,
    pub driver_version: Option<String>,
    pub link_generation_now: Option<u32>,
    /// What the GPU and the slot can both do.
    pub link_generation_max: Option<u32>,
    pub link_width_now: Option<u32>,
    pub link_width_max: Option<u32>,
    /// Since the driver loaded.
    pub pcie_replays: Option<u64>,
    pub bar1_total_bytes: Option<u64>,
    pub bar1_free_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub memory_free_bytes: Option<u64>,
    pub ecc_enabled: Option<bool>,
    /// Since the driver loaded.
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Over the GPU's life.
    pub ecc_corrected_ever: Option<u64>,
    pub ecc_uncorrected_ever: Option<u64>,
    /// NVML's names in lower case: `gpu_idle`, `sw_power_cap`, `hw_thermal_slowdown`, …
    pub throttle_reasons: Option<Vec<String>>,
    pub temperature_c: Option<u32>,
    pub slowdown_temperature_c: Option<u32>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    pub clock_sm_mhz: Option<u32>,
    pub clock_sm_max_mhz: Option<u32>,
    pub clock_memory_mhz: Option<u32>,
    pub clock_memory_max_mhz: Option<u32>,
    /// Processes with a context on this GPU, without ours. In a container the driver may hide others.
    pub other_processes: Option<u32>,
    pub persistence_mode: Option<bool>,
    pub mig_mode: Option<bool>,
    /// `default`, `exclusive-process`, `exclusive-thread` or `prohibited`.
    pub compute_mode: Option<String>,
}

/// Names that slow a GPU down; the others say that it is idle or was told to run at these clocks.
const SLOWDOWNS: [&str; 6] = [
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
];

impl GpuFacts {
    /// The reasons, of those reported, that slow this GPU down.
    pub fn slowdowns(&self) -> Option<Vec<&str>> {
        let reasons = self.throttle_reasons.as_ref()?;
        Some(reasons.iter().map(String::as_str).filter(|reason| SLOWDOWNS.contains(reason)).collect())
    }
}

/// The GPUs that NVML sees, in its order. Without the library or a driver, [`Unread::Other`] says which is missing.
/// Recorded as the fact `nvml`.
pub fn gpus(source: &Source) -> Result<Vec<GpuFacts>, Unread> {
    source.fact("nvml", probe)
}

/// Asks NVML for every GPU.
fn probe() -> Result<Vec<GpuFacts>, Unread> {
    let nvml = open()?;
    let driver_version = nvml.sys_driver_version().ok();
    let count = nvml.device_count().map_err(|e| unread("count GPUs", &e))?;
    (0..count)
        .map(|index| {
            let device = nvml.device_by_index(index).map_err(|e| unread(&format!("open GPU {index}"), &e))?;
            facts(&device, index, driver_version.clone())
                .map_err(|e| unread(&format!("identify GPU {index}"), &e))
        })
        .collect()
}

/// More than any GPU so far has.
const NVLINKS_MAX: u32 = 18;

/// A GPU's active NVLinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvLinks {
    pub uuid: String,
    /// The PCI address at the other end of each: another GPU's, or a switch's. Empty where NVML does not tell it.
    pub far_ends: Vec<String>,
}

/// The NVLinks of every GPU. Recorded as the fact `nvlink`.
pub fn nvlinks(source: &Source) -> Result<Vec<NvLinks>, Unread> {
    source.fact("nvlink", probe_nvlinks)
}

fn probe_nvlinks() -> Result<Vec<NvLinks>, Unread> {
    let nvml = open()?;
    let count = nvml.device_count().map_err(|e| unread("count GPUs", &e))?;
    let of = |index: u32| -> Result<NvLinks, NvmlError> {
        let device = nvml.device_by_index(index)?;
        // A link that the GPU does not have is an error, which says no more than that.
        let active = (0..NVLINKS_MAX).map(|link| device.link_wrapper_for(link));
        let active = active.filter(|link| link.is_active().unwrap_or(false));
        let far_ends = active.map(|link| link.remote_pci_info().map_or(String::new(), |pci| address(&pci)));
        Ok(NvLinks { uuid: device.uuid()?, far_ends: far_ends.collect() })
    };
    (0..count)
        .map(|index| of(index).map_err(|e| unread(&format!("ask GPU {index} for NVLinks"), &e)))
        .collect()
}

/// As sysfs writes it.
fn address(pci: &PciInfo) -> String {
    format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device)
}

/// Whether [`gpus`] gave this answer because the GPU of this index is lost.
pub fn is_lost(why: &str, index: u32) -> bool {
    ["open", "identify"].iter().any(|step| why == format!("{step} GPU {index}: {}", NvmlError::GpuLost))
}

/// A closure that reads generation and width of one GPU's link now.
pub fn link_sampler(uuid: &str) -> Result<impl FnMut() -> Result<(u32, u32), Unread> + use<>, Unread> {
    let (nvml, uuid) = (open()?, uuid.to_string());
    let sample = move || -> Result<(u32, u32), NvmlError> {
        let device = nvml.device_by_uuid(uuid.as_str())?;
        Ok((device.current_pcie_link_gen()?, device.current_pcie_link_width()?))
    };
    Ok(move || sample().map_err(|e| unread("read the PCIe link", &e)))
}

fn open() -> Result<Nvml, Unread> {
    Nvml::init().map_err(|e| match e {
        NvmlError::LibloadingError(_) => Unread::Other(
            "libnvidia-ml.so.1 is not installed; it comes with NVIDIA's driver (in a container, with its runtime)"
                .into(),
        ),
        NvmlError::DriverNotLoaded => {
            Unread::Other("NVIDIA's kernel driver is not loaded; try `modprobe nvidia`".into())
        }
        NvmlError::LibRmVersionMismatch => Unread::Other(
            "libnvidia-ml.so.1 and the loaded kernel driver are of different versions; reboot or reload the driver"
                .into(),
        ),
        e => unread("start NVML", &e),
    })
}

fn unread(what: &str, error: &NvmlError) -> Unread {
    match error {
        NvmlError::NoPermission => Unread::Denied,
        e => Unread::Other(format!("{what}: {e}")),
    }
}

fn facts(device: &Device, index: u32, driver_version: Option<String>) -> Result<GpuFacts, NvmlError> {
    let pci = device.pci_info()?;
    let bar1 = device.bar1_memory_info().ok();
    let memory = device.memory_info().ok();
    let ecc = |error, counter| device.total_ecc_errors(error, counter).ok();
    Ok(GpuFacts {
        index,
        uuid: device.uuid()?,
        name: device.name()?,
        pci_address: address(&pci),
        driver_version,
        link_generation_now: device.current_pcie_link_gen().ok(),
        link_generation_max: device.max_pcie_link_gen().ok(),
        link_width_now: device.current_pcie_link_width().ok(),
        link_width_max: device.max_pcie_link_width().ok(),
        pcie_replays: device.pcie_replay_counter().ok().map(u64::from),
        bar1_total_bytes: bar1.as_ref().map(|b| b.total),
        bar1_free_bytes: bar1.as_ref().map(|b| b.free),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        memory_free_bytes: memory.as_ref().map(|m| m.free),
        ecc_enabled: device.is_ecc_enabled().ok().map(|mode| mode.currently_enabled),
        ecc_corrected: ecc(MemoryError::Corrected, EccCounter::Volatile),
        ecc_uncorrected: ecc(MemoryError::Uncorrected, EccCounter::Volatile),
        ecc_corrected_ever: ecc(MemoryError::Corrected, EccCounter::Aggregate),
        ecc_uncorrected_ever: ecc(MemoryError::Uncorrected, EccCounter::Aggregate),
        throttle_reasons: device.current_throttle_reasons().ok().map(throttle_names),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        slowdown_temperature_c: device.temperature_threshold(TemperatureThreshold::Slowdown).ok(),
        power_mw: device.power_usage().ok(),
        power_limit_mw: device.enforced_power_limit().ok(),
        clock_sm_mhz: device.clock_info(Clock::SM).ok(),
        clock_sm_max_mhz: device.max_clock_info(Clock::SM).ok(),
        clock_memory_mhz: device.clock_info(Clock::Memory).ok(),
        clock_memory_max_mhz: device.max_clock_info(Clock::Memory).ok(),
        other_processes: other_processes(device),
        persistence_mode: device.is_in_persistent_mode().ok(),
        mig_mode: device.mig_mode().ok().map(|mode| mode.current != 0),
        compute_mode: device.compute_mode().ok().map(|mode| compute_mode_name(mode).to_string()),
    })
}

fn throttle_names(reasons: nvml_wrapper::bitmasks::device::ThrottleReasons) -> Vec<String> {
    let named = reasons.iter_names().map(|(name, _)| name.to_ascii_lowercase());
    // An older name of a bit that has a newer one.
    named.filter(|name| name != "user_defined_clocks").collect()
}

fn other_processes(device: &Device) -> Option<u32> {
    let compute = device.running_compute_processes().ok()?;
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let mut pids: Vec<u32> = compute.iter().chain(&graphics).map(|process| process.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != std::process::id());
    u32::try_from(pids.len()).ok()
}

fn compute_mode_name(mode: ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive-thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive-process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvml_wrapper::bitmasks::device::ThrottleReasons;

    #[test]
    fn a_machine_without_nvml_says_so() {
        // Where the library is there, the probe must answer instead.
        match probe() {
            Ok(gpus) => assert!(gpus.iter().all(|gpu| gpu.uuid.starts_with("GPU-"))),
            Err(Unread::Other(why)) => {
                assert!(why.contains("libnvidia-ml.so.1") || why.contains("driver"), "{why}")
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn throttle_reasons_have_one_name_each() {
        let reasons = ThrottleReasons::APPLICATIONS_CLOCKS_SETTING | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(throttle_names(reasons), ["applications_clocks_setting", "hw_thermal_slowdown"]);
    }
}

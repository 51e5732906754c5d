//! Which check a finding is of: programs match on this, scripts on its name.

use serde::{Serialize, Serializer};

use crate::load::gds::ways::Requirement;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckId {
    /// Something that GDS needs.
    Gds(Requirement),
    Nvml,
    GpuLink,
    GpuPath,
    GpuNuma,
    GpuBar1,
    GpuEcc,
    GpuThrottle,
    GpuProcesses,
    GpuMig,
    GpuComputeMode,
    GpuPersistence,
    DriveLink,
    DrivePath,
    DriveModel,
    DriveTemperature,
    DriveSmart,
    PairDistance,
    Acs,
    Container,
    VirtualMachine,
    Iommu,
    LockedMemory,
    HugePages,
    PageCache,
    Cpu,
    CpuLimit,
    MemoryLimit,
    IoLimit,
    Raid,
    Queue,
    /// Of a device that calls itself a spinning disk; shown as its queue.
    SpinningDisk,
    DirectAlignment,
    NvidiaFsCounters,
    NvidiaFsMaps,
    HealthPcie,
    HealthPcieReplay,
    HealthEccCorrected,
    HealthEccUncorrected,
    HealthThrottle,
    HealthDriveTemperature,
    HealthSmart,
    HealthGone,
    FreePageReporting,
}

impl CheckId {
    /// Stable and lower case, for scripts: `nvidia-fs.loaded`, `gpu.link`, …
    pub fn name(self) -> &'static str {
        match self {
            CheckId::Gds(requirement) => requirement.name(),
            CheckId::Nvml => "gpu.nvml",
            CheckId::GpuLink => "gpu.link",
            CheckId::GpuPath => "gpu.path",
            CheckId::GpuNuma => "gpu.numa",
            CheckId::GpuBar1 => "gpu.bar1",
            CheckId::GpuEcc => "gpu.ecc",
            CheckId::GpuThrottle => "gpu.throttle",
            CheckId::GpuProcesses => "gpu.processes",
            CheckId::GpuMig => "gpu.mig",
            CheckId::GpuComputeMode => "gpu.compute-mode",
            CheckId::GpuPersistence => "gpu.persistence",
            CheckId::DriveLink => "drive.link",
            CheckId::DrivePath => "drive.path",
            CheckId::DriveModel => "drive.model",
            CheckId::DriveTemperature => "drive.temperature",
            CheckId::DriveSmart => "drive.smart",
            CheckId::PairDistance => "pair.distance",
            CheckId::Acs => "machine.acs",
            CheckId::Container => "machine.container",
            CheckId::VirtualMachine => "machine.vm",
            CheckId::Iommu => "machine.iommu",
            CheckId::LockedMemory => "machine.memlock",
            CheckId::HugePages => "machine.huge-pages",
            CheckId::PageCache => "machine.page-cache",
            CheckId::Cpu => "machine.cpu",
            CheckId::CpuLimit => "machine.cpu-limit",
            CheckId::MemoryLimit => "machine.memory-limit",
            CheckId::IoLimit => "machine.io-limit",
            CheckId::Raid => "storage.raid",
            CheckId::Queue | CheckId::SpinningDisk => "storage.queue",
            CheckId::DirectAlignment => "direct.alignment",
            CheckId::NvidiaFsCounters => "nvidia-fs.counters",
            CheckId::NvidiaFsMaps => "nvidia-fs.maps",
            CheckId::HealthPcie => "health.pcie",
            CheckId::HealthPcieReplay => "health.pcie-replay",
            CheckId::HealthEccCorrected => "health.ecc-corrected",
            CheckId::HealthEccUncorrected => "health.ecc-uncorrected",
            CheckId::HealthThrottle => "health.throttle",
            CheckId::HealthDriveTemperature => "health.drive-temperature",
            CheckId::HealthSmart => "health.smart",
            CheckId::HealthGone => "health.gone",
            CheckId::FreePageReporting => "machine.free-page-reporting",
        }
    }
}

impl Serialize for CheckId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

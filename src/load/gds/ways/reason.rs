//! Why GPUDirect Storage is not possible, or in doubt. What mends it is doctor's to say.

use std::fmt::{Display, Formatter, Result};

use crate::node::nvidia::{NVIDIA_FS, VERSION};

/// Each is written as a short sentence that ends, or goes on after a colon with the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Software(SoftwareReason),
    P2pdma(P2pdmaReason),
    FileSystem(FileSystemReason),
    BlockDevice(BlockDeviceReason),
    /// What somebody found by trying, in words.
    ByTrial(String),
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Reason::Software(reason) => reason.fmt(f),
            Reason::P2pdma(reason) => reason.fmt(f),
            Reason::FileSystem(reason) => reason.fmt(f),
            Reason::BlockDevice(reason) => reason.fmt(f),
            Reason::ByTrial(words) => f.write_str(words),
        }
    }
}

impl From<SoftwareReason> for Reason {
    fn from(reason: SoftwareReason) -> Reason {
        Reason::Software(reason)
    }
}

impl From<P2pdmaReason> for Reason {
    fn from(reason: P2pdmaReason) -> Reason {
        Reason::P2pdma(reason)
    }
}

impl From<FileSystemReason> for Reason {
    fn from(reason: FileSystemReason) -> Reason {
        Reason::FileSystem(reason)
    }
}

impl From<BlockDeviceReason> for Reason {
    fn from(reason: BlockDeviceReason) -> Reason {
        Reason::BlockDevice(reason)
    }
}

/// How it shows that nvidia-fs is not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLoaded {
    NotListed,
    /// There is no list of modules to look at.
    NoDirectory,
    /// It is listed, and does not show itself here.
    Hidden,
}

/// Of NVIDIA's driver, nvidia-fs and cuFile's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoftwareReason {
    DriverNotLoaded,
    DriverUnread,
    ClosedModule,
    NoGpu,
    GpuWithoutGds { model: String },
    SomeGpusWithoutGds,
    NoProcModules,
    ProcModulesUnread,
    NvidiaFsNotLoaded(NotLoaded),
    NvidiaFsUnread,
    NvidiaFsDeviceMissing { node: String },
    NvidiaFsDeviceUnread { node: String },
    NotHooked { driver: String },
    HooksUnread,
    ConfigurationNoJson,
    ConfigurationUnread,
    ForcedCompat,
}

impl Display for SoftwareReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            SoftwareReason::DriverNotLoaded => {
                write!(f, "NVIDIA's driver is not loaded: there is no {VERSION}")
            }
            SoftwareReason::DriverUnread => f.write_str("NVIDIA's driver can't be told"),
            SoftwareReason::ClosedModule => {
                f.write_str("the closed NVIDIA kernel module is loaded: GDS needs the open one")
            }
            SoftwareReason::NoGpu => f.write_str("the driver has no GPU: the list of GPUs is empty"),
            SoftwareReason::GpuWithoutGds { model } => {
                write!(f, "{model} has no GDS: it takes a GPU for data centers or workstations")
            }
            SoftwareReason::SomeGpusWithoutGds => {
                f.write_str("GDS works only with GPUs for data centers and workstations")
            }
            SoftwareReason::NoProcModules => f.write_str(
                "there is no /proc/modules: some versions of cuFile never return from opening their driver",
            ),
            SoftwareReason::ProcModulesUnread => {
                f.write_str("/proc/modules can't be read: cuFile may not open its driver without it")
            }
            SoftwareReason::NvidiaFsNotLoaded(NotLoaded::NotListed) => {
                f.write_str("nvidia-fs is not loaded: /proc/modules has no nvidia_fs")
            }
            SoftwareReason::NvidiaFsNotLoaded(NotLoaded::NoDirectory) => {
                write!(f, "nvidia-fs is not loaded: there is no {NVIDIA_FS}")
            }
            SoftwareReason::NvidiaFsNotLoaded(NotLoaded::Hidden) => {
                write!(f, "nvidia-fs is loaded but hidden: there is no {NVIDIA_FS}")
            }
            SoftwareReason::NvidiaFsUnread => f.write_str("whether nvidia-fs is loaded can't be told"),
            SoftwareReason::NvidiaFsDeviceMissing { node } => {
                write!(f, "nvidia-fs can't be reached: there is no {node}")
            }
            SoftwareReason::NvidiaFsDeviceUnread { node } => {
                write!(f, "whether there is a {node} can't be told")
            }
            SoftwareReason::NotHooked { driver } => {
                write!(f, "nvidia-fs has not hooked the driver {driver}: it is not in {NVIDIA_FS}/modules")
            }
            SoftwareReason::HooksUnread => f.write_str("which drivers nvidia-fs has hooked can't be read"),
            SoftwareReason::ConfigurationNoJson => {
                f.write_str("cuFile's configuration is no JSON: cuFile does not open its driver with it")
            }
            SoftwareReason::ConfigurationUnread => {
                f.write_str("cuFile's configuration can't be read, so that its defaults hold")
            }
            SoftwareReason::ForcedCompat => {
                f.write_str("cuFile is told to use compatibility mode only: force_compat_mode is true")
            }
        }
    }
}

/// Of the kernel's P2PDMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum P2pdmaReason {
    KernelUnread,
    KernelTooOld { release: String },
    KernelWithoutP2pdma,
    KernelConfigUnread,
    DriverTooOld { version: String, least: u32 },
    DriverFailsWithKernel,
    GpuGivesNoMemory { address: String },
    GpuMemoryNotAskedFor { missing: Vec<String> },
    GpuMemoryUnread,
    Multipath,
    MultipathUnread,
}

impl Display for P2pdmaReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            P2pdmaReason::KernelUnread => f.write_str("the kernel's version can't be read"),
            P2pdmaReason::KernelTooOld { release } => {
                write!(f, "Linux {release} is too old for P2PDMA: it takes 6.2")
            }
            P2pdmaReason::KernelWithoutP2pdma => {
                f.write_str("the kernel was built without P2PDMA: CONFIG_PCI_P2PDMA is not set")
            }
            P2pdmaReason::KernelConfigUnread => f.write_str("whether the kernel has P2PDMA can't be told"),
            P2pdmaReason::DriverTooOld { version, least } => {
                write!(f, "driver {version} is too old for P2PDMA: it takes {least}")
            }
            P2pdmaReason::DriverFailsWithKernel => {
                f.write_str("drivers before 595 were reported to fail with P2PDMA on Linux 6.15 and later")
            }
            P2pdmaReason::GpuGivesNoMemory { address } => {
                write!(f, "the driver gives P2PDMA no memory of GPU {address}: its p2pmem/size is 0")
            }
            P2pdmaReason::GpuMemoryNotAskedFor { missing } => write!(
                f,
                "the driver is not told to give GPU memory to P2PDMA: {} not set",
                missing.join(", ")
            ),
            P2pdmaReason::GpuMemoryUnread => {
                f.write_str("whether the driver gives GPU memory to P2PDMA can't be read")
            }
            P2pdmaReason::Multipath => f.write_str(
                "NVMe multipath is on, which P2PDMA does not go through: nvme_core.multipath is Y",
            ),
            P2pdmaReason::MultipathUnread => f.write_str("whether NVMe multipath is on can't be read"),
        }
    }
}

/// Of the file system that holds a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSystemReason {
    MountUnread,
    Overlay,
    TransformedData { fs_type: String },
    InMemory { fs_type: String },
    OverNetwork { fs_type: String },
    OtherFileSystem { fs_type: String },
    JournalMode { mode: String, device: String, mount_point: String },
    NoJournal { mount_point: String },
    JournalNotStated { mount_point: String },
    Dax { mount_point: String },
}

impl Display for FileSystemReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            FileSystemReason::MountUnread => f.write_str("which file system holds the path can't be read"),
            FileSystemReason::Overlay => f.write_str(
                "the path is on overlay, a container's layers: they hide the real file system from cuFile",
            ),
            FileSystemReason::TransformedData { fs_type } => {
                write!(f, "cuFile does not serve {fs_type}: it transforms data (checksums, compression)")
            }
            FileSystemReason::InMemory { fs_type } => {
                write!(f, "{fs_type} is memory: there is no drive to read from")
            }
            FileSystemReason::OverNetwork { fs_type } => {
                write!(f, "{fs_type} comes over a network, which P2PDMA does not serve")
            }
            FileSystemReason::OtherFileSystem { fs_type } => write!(f, "cuFile does not serve {fs_type}"),
            FileSystemReason::JournalMode { mode, .. } => {
                write!(f, "ext4 is mounted with {mode}: cuFile serves only data=ordered")
            }
            FileSystemReason::NoJournal { .. } => {
                f.write_str("ext4 is mounted without its journal: cuFile serves only data=ordered")
            }
            FileSystemReason::JournalNotStated { .. } => f.write_str(
                "the mount table does not say data=ordered: cuFile looks for it there, and falls back to \
                 compatibility mode",
            ),
            FileSystemReason::Dax { .. } => {
                f.write_str("mounted with dax: reads are copies by the processor")
            }
        }
    }
}

/// Of the block devices below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockDeviceReason {
    NoBlockDevice { path: String, device: String, fs_type: String },
    TransportUnread { name: String },
    DriveOverRdma { name: String },
    DriveOverNetwork { name: String, transport: String },
    Raid0 { name: String },
    OtherRaid { name: String, level: String },
    Encrypted { name: String },
    Mapped { name: String, what: String },
    NotNvme { name: String, what: &'static str },
    UdevUnread { name: String },
    NoUdev { name: String },
    NotFileSystemInUdev { name: String },
    RaidUnknownToUdev { name: String },
}

impl Display for BlockDeviceReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            BlockDeviceReason::NoBlockDevice { path, device, fs_type } => {
                write!(f, "{path} has no block device that can be seen: {device} is {fs_type}")
            }
            BlockDeviceReason::TransportUnread { name } => write!(f, "how {name} is attached can't be read"),
            BlockDeviceReason::DriveOverRdma { name } => {
                write!(f, "{name} is reached over a network, which P2PDMA does not serve")
            }
            BlockDeviceReason::DriveOverNetwork { name, transport } => {
                write!(f, "{name} is reached over {transport}, which cuFile does not serve")
            }
            BlockDeviceReason::Raid0 { name } => {
                write!(f, "{name} is a RAID 0: NVIDIA supports P2PDMA only straight on a drive")
            }
            BlockDeviceReason::OtherRaid { name, level } => {
                write!(f, "{name} is {level}: of software RAID, cuFile serves only RAID 0")
            }
            BlockDeviceReason::Encrypted { name } => {
                write!(f, "{name} is encrypted: the processor must decrypt every byte in host memory")
            }
            BlockDeviceReason::Mapped { name, what } => {
                write!(f, "{name} is a {what} volume, which cuFile does not serve")
            }
            BlockDeviceReason::NotNvme { name, what } => write!(f, "{name} is {what}, not an NVMe drive"),
            BlockDeviceReason::UdevUnread { name } => write!(f, "udev's entry for {name} can't be read"),
            BlockDeviceReason::NoUdev { name } => write!(
                f,
                "udev has no entry for {name}: cuFile refuses files with 5027; there is no /run/udev here"
            ),
            BlockDeviceReason::NotFileSystemInUdev { name } => {
                write!(f, "udev's entry for {name} does not say filesystem: cuFile refuses files with 5027")
            }
            BlockDeviceReason::RaidUnknownToUdev { name } => {
                write!(f, "udev does not know {name} as RAID 0: cuFile looks for MD_LEVEL")
            }
        }
    }
}

//! What mends each thing that stands in the way of GDS: a command, a setting, or the right that is wanted.

use crate::load::gds::ways::{
    Assessment, BlockDeviceReason, FileSystemReason, P2pdmaReason, REGISTRY_OPTIONS, Reason, SoftwareReason,
    State,
};
use crate::node::nvidia::{NVIDIA_FS, PARAMS, VERSION};

const MOVE: &str = "keep the models on ext4 or xfs, straight on an NVMe drive";
const STRAIGHT: &str = "put the file system straight on an NVMe drive or a partition of it";

/// `None` where there is nothing to mend, or nothing that mends it.
pub fn remedy(assessment: &Assessment) -> Option<String> {
    let source = assessment.source.as_str();
    match &assessment.state {
        State::Met => None,
        State::Doubtful(reason) | State::Unmet(reason) | State::Unknown(reason) => match reason {
            Reason::Software(reason) => of_software(reason, source),
            Reason::P2pdma(reason) => Some(of_p2pdma(reason, source)),
            Reason::FileSystem(reason) => Some(of_file_system(reason)),
            Reason::BlockDevice(reason) => Some(of_block_device(reason, source)),
            Reason::ByTrial(_) => None,
        },
    }
}

fn read_access(path: &str) -> String {
    format!("give this user read access to {path}")
}

fn of_software(reason: &SoftwareReason, source: &str) -> Option<String> {
    let remedy = match reason {
        SoftwareReason::DriverNotLoaded => "install NVIDIA's open driver, then: sudo modprobe nvidia".into(),
        SoftwareReason::DriverUnread => read_access(VERSION),
        SoftwareReason::ClosedModule => {
            "install the open variant (package nvidia-open, or nvidia-driver-…-open), then reboot".into()
        }
        SoftwareReason::NoGpu => "in a container: docker run --gpus all".into(),
        SoftwareReason::GpuWithoutGds { .. } => "none: loads use the pinned ring".into(),
        SoftwareReason::SomeGpusWithoutGds => return None,
        SoftwareReason::NoProcModules => "boot a kernel with loadable modules (CONFIG_MODULES=y)".into(),
        SoftwareReason::ProcModulesUnread => read_access(source),
        SoftwareReason::NvidiaFsNotLoaded(_) => {
            "install nvidia-fs (package nvidia-gds, or nvidia-fs-dkms), then: sudo modprobe nvidia_fs".into()
        }
        SoftwareReason::NvidiaFsUnread => read_access(NVIDIA_FS),
        SoftwareReason::NvidiaFsDeviceMissing { .. } => {
            "in a container: docker run -e NVIDIA_GDS=enabled (NVIDIA's container toolkit)".into()
        }
        SoftwareReason::NvidiaFsDeviceUnread { .. } => "give this user access to /dev".into(),
        SoftwareReason::NotHooked { .. } => {
            "boot a kernel whose nvme driver has the hook (Ubuntu: linux-nvidia) or install DOCA's, then: \
             sudo modprobe -r nvidia_fs && sudo modprobe nvidia_fs"
                .into()
        }
        SoftwareReason::HooksUnread => read_access(source),
        SoftwareReason::ConfigurationNoJson => format!("mend {source}; // comments are allowed"),
        SoftwareReason::ConfigurationUnread => {
            format!("{}, or set CUFILE_ENV_PATH_JSON", read_access(source))
        }
        SoftwareReason::ForcedCompat => {
            format!("unset CUFILE_FORCE_COMPAT_MODE, and set force_compat_mode to false in {source}")
        }
    };
    Some(remedy)
}

fn of_p2pdma(reason: &P2pdmaReason, source: &str) -> String {
    match reason {
        P2pdmaReason::KernelUnread => "mount /proc where doctor runs".into(),
        P2pdmaReason::KernelTooOld { .. } => "boot Linux 6.2 or later".into(),
        P2pdmaReason::KernelWithoutP2pdma => {
            "boot a kernel with CONFIG_PCI_P2PDMA=y (which needs CONFIG_ZONE_DEVICE)".into()
        }
        P2pdmaReason::KernelConfigUnread => {
            format!("give this user {source}, /proc/config.gz or /proc/kallsyms to read")
        }
        P2pdmaReason::DriverTooOld { least, .. } => format!("install NVIDIA's open driver {least} or later"),
        P2pdmaReason::DriverFailsWithKernel => "install NVIDIA's open driver 595 or later".into(),
        P2pdmaReason::GpuGivesNoMemory { .. } | P2pdmaReason::GpuMemoryNotAskedFor { .. } => {
            let options: String = REGISTRY_OPTIONS.iter().map(|option| format!("{option};")).collect();
            format!(
                "echo 'options nvidia NVreg_RegistryDwords=\"{options}\"' | sudo tee /etc/modprobe.d/nvidia-p2pdma.conf, \
                 then update the initramfs and reboot"
            )
        }
        P2pdmaReason::GpuMemoryUnread => read_access(PARAMS),
        P2pdmaReason::Multipath => {
            "echo 'options nvme_core multipath=N' | sudo tee /etc/modprobe.d/nvme.conf, then update the \
             initramfs and reboot"
                .into()
        }
        P2pdmaReason::MultipathUnread => read_access(source),
    }
}

fn of_file_system(reason: &FileSystemReason) -> String {
    let remount =
        |mount_point: &str| format!("sudo mount -o remount,data=ordered {mount_point} (and in /etc/fstab)");
    match reason {
        FileSystemReason::MountUnread => "mount /proc where doctor runs".into(),
        FileSystemReason::Overlay => {
            "mount the models into the container: docker run -v /mnt/models:/models".into()
        }
        FileSystemReason::TransformedData { .. }
        | FileSystemReason::InMemory { .. }
        | FileSystemReason::OverNetwork { .. }
        | FileSystemReason::OtherFileSystem { .. } => MOVE.into(),
        FileSystemReason::JournalMode { device, mount_point, .. } => {
            format!("umount, then: sudo mount -o data=ordered {device} {mount_point}")
        }
        FileSystemReason::NoJournal { mount_point } | FileSystemReason::JournalNotStated { mount_point } => {
            remount(mount_point)
        }
        FileSystemReason::Dax { mount_point } => format!("sudo mount -o remount,dax=never {mount_point}"),
    }
}

fn of_block_device(reason: &BlockDeviceReason, source: &str) -> String {
    match reason {
        BlockDeviceReason::NoBlockDevice { .. } => MOVE.into(),
        BlockDeviceReason::TransportUnread { .. } => "mount /sys where doctor runs".into(),
        BlockDeviceReason::DriveOverRdma { .. }
        | BlockDeviceReason::DriveOverNetwork { .. }
        | BlockDeviceReason::Raid0 { .. }
        | BlockDeviceReason::OtherRaid { .. }
        | BlockDeviceReason::Encrypted { .. }
        | BlockDeviceReason::Mapped { .. }
        | BlockDeviceReason::NotNvme { .. } => STRAIGHT.into(),
        BlockDeviceReason::UdevUnread { .. } => read_access(source),
        BlockDeviceReason::NoUdev { .. } => format!(
            "in a container: docker run -v /run/udev:/run/udev:ro; without udev: sudo mkdir -p /run/udev/data \
             && echo E:ID_FS_USAGE=filesystem | sudo tee {source}"
        ),
        BlockDeviceReason::NotFileSystemInUdev { name } => {
            format!("sudo udevadm trigger --settle /dev/{name}")
        }
        BlockDeviceReason::RaidUnknownToUdev { name } => {
            format!("install mdadm's udev rules, then: sudo udevadm trigger --settle /dev/{name}")
        }
    }
}

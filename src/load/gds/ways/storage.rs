//! What GDS needs of the file system that holds a path, of the block devices below it, and of udev.

use crate::load::gds::ways::assessment::{Assessment, Need, Requirement, State, Way};
use crate::load::gds::ways::reason::{BlockDeviceReason, FileSystemReason};
use crate::node::block::{Kind, Layer, Stack, dm_words};
use crate::node::mounts::{MOUNTINFO, Mount};
use crate::node::source::Source;
use crate::node::udev;

/// The entry in nvidia-fs's list of drivers that a file system over a network needs.
pub fn network_driver(fs_type: &str) -> Option<&'static str> {
    Some(match fs_type {
        "nfs" | "nfs4" => "rpcrdma",
        "lustre" => "lnet",
        "beegfs" => "beegfs",
        "gpfs" => "mmfslinux",
        "wekafs" => "wekafsio",
        _ => return None,
    })
}

/// The name that nvidia-fs has for the driver of these drives.
pub fn drive_driver(stack: &Stack) -> &'static str {
    match stack.bottom().any(|layer| matches!(&layer.kind, Kind::Nvme(t) if t == "rdma")) {
        true => "nvme_rdma",
        false => "nvme",
    }
}

/// The file systems on a local drive that cuFile serves.
fn is_served(fs_type: &str) -> bool {
    matches!(fs_type, "ext4" | "xfs")
}

pub fn file_system(source: &Source, path: &str, mount: &Mount) -> Vec<Assessment> {
    let mut all = vec![fs_type(path, mount)];
    if mount.fs_type == "ext4" {
        all.push(ext4_journal(source, path, mount));
    }
    if mount.has("dax") || mount.has("dax=always") {
        let dax = FileSystemReason::Dax { mount_point: mount.mount_point.clone() };
        all.push(Assessment::new(Requirement::NoDax, State::Unmet(dax.into()), "dax", MOUNTINFO).of(path));
    }
    all
}

fn fs_type(path: &str, mount: &Mount) -> Assessment {
    let name = || mount.fs_type.clone();
    let (need, reason) = match mount.fs_type.as_str() {
        served if is_served(served) => (Need::Both, None),
        "overlay" => (Need::Both, Some(FileSystemReason::Overlay)),
        "btrfs" | "zfs" | "bcachefs" => {
            (Need::Both, Some(FileSystemReason::TransformedData { fs_type: name() }))
        }
        "tmpfs" | "ramfs" => (Need::Both, Some(FileSystemReason::InMemory { fs_type: name() })),
        network if network_driver(network).is_some() => {
            (Need::Only(Way::P2pdma), Some(FileSystemReason::OverNetwork { fs_type: name() }))
        }
        _ => (Need::Both, Some(FileSystemReason::OtherFileSystem { fs_type: name() })),
    };
    let state = reason.map_or(State::Met, |reason| State::Unmet(reason.into()));
    let value = format!("{} at {}", mount.fs_type, mount.mount_point);
    Assessment::new(Requirement::FileSystem, state, value, MOUNTINFO).of(path).needed_by(need)
}

/// cuFile wants to read `data=ordered` in the mount table. Newer kernels print it only where it was asked for.
fn ext4_journal(source: &Source, path: &str, mount: &Mount) -> Assessment {
    let mount_point = mount.mount_point.clone();
    let unmet = |reason: FileSystemReason| State::Unmet(reason.into());
    let (state, value) = match mount.options().find(|option| option.starts_with("data=")) {
        Some("data=ordered") => (State::Met, "data=ordered".to_string()),
        Some(mode) => {
            let (mode, device) = (mode.to_string(), mount.device.clone());
            (unmet(FileSystemReason::JournalMode { mode: mode.clone(), device, mount_point }), mode)
        }
        None if mount.has("norecovery") || mount.has("noload") => {
            (unmet(FileSystemReason::NoJournal { mount_point }), "no journal".into())
        }
        None => {
            let kept = mount.ext4_journal_mode(source).unwrap_or("not stated".into());
            (
                unmet(FileSystemReason::JournalNotStated { mount_point }),
                format!("{kept}, not in the mount table"),
            )
        }
    };
    Assessment::new(Requirement::Journal, state, value, MOUNTINFO).of(path)
}

/// The block devices below a mount. Of a network there are none.
pub fn block_devices(source: &Source, path: &str, mount: &Mount, stack: &Stack) -> Vec<Assessment> {
    if network_driver(&mount.fs_type).is_some() {
        return Vec::new();
    }
    if stack.layers.is_empty() && !is_served(&mount.fs_type) {
        // Said of the file system already.
        return Vec::new();
    }
    if stack.layers.is_empty() {
        let (device, fs_type) = (mount.device.clone(), mount.fs_type.clone());
        let none = BlockDeviceReason::NoBlockDevice { path: path.into(), device, fs_type };
        let (state, at) = (State::Unknown(none.into()), "/sys/dev/block");
        return vec![Assessment::new(Requirement::BlockDevice, state, mount.device.clone(), at).of(path)];
    }
    let mut all: Vec<Assessment> = stack.layers.iter().filter_map(layer).collect();
    all.extend(udev_entry(source, path, mount, stack));
    all
}

/// Whether a layer leaves the bytes where the file system thinks they are.
fn layer(layer: &Layer) -> Option<Assessment> {
    let name = layer.name.clone();
    let unmet = |reason: BlockDeviceReason| State::Unmet(reason.into());
    let only_p2pdma = Need::Only(Way::P2pdma);
    let (need, value, state) = match &layer.kind {
        Kind::Partition => return None,
        Kind::Nvme(transport) => match transport.as_str() {
            "pcie" => (Need::Both, "NVMe over PCIe", State::Met),
            "" => (Need::Both, "NVMe", State::Unknown(BlockDeviceReason::TransportUnread { name }.into())),
            "rdma" => (only_p2pdma, "NVMe over RDMA", unmet(BlockDeviceReason::DriveOverRdma { name })),
            other => {
                let transport = other.to_string();
                (Need::Both, other, unmet(BlockDeviceReason::DriveOverNetwork { name, transport }))
            }
        },
        Kind::Md(level) if level == "raid0" => {
            (only_p2pdma, "raid0", unmet(BlockDeviceReason::Raid0 { name }))
        }
        Kind::Md(level) => {
            (Need::Both, level.as_str(), unmet(BlockDeviceReason::OtherRaid { name, level: level.clone() }))
        }
        Kind::Dm(what) if what == "CRYPT" => {
            (Need::Both, "dm-crypt", unmet(BlockDeviceReason::Encrypted { name }))
        }
        Kind::Dm(what) => {
            let words = dm_words(what);
            (Need::Both, words, unmet(BlockDeviceReason::Mapped { name, what: words.to_string() }))
        }
        Kind::Other(what) => (Need::Both, *what, unmet(BlockDeviceReason::NotNvme { name, what })),
    };
    let at = format!("/sys/class/block/{}", layer.name);
    let found = Assessment::new(Requirement::BlockDevice, state, value, at);
    Some(found.of(layer.name.as_str()).needed_by(need))
}

/// Where udev's entry is missing, registering a file fails with 5027.
fn udev_entry(source: &Source, path: &str, mount: &Mount, stack: &Stack) -> Vec<Assessment> {
    const FILE_SYSTEM: &str = "E:ID_FS_USAGE=filesystem";
    let Some(top) = stack.layers.first() else { return Vec::new() };
    let number = source.text(&format!("{}/dev", top.sys)).unwrap_or_else(|_| mount.number.clone());
    let name = top.name.clone();
    let entry = udev::entry(source, &number);
    let (state, value) = match &entry {
        entry if entry.has(FILE_SYSTEM) => (State::Met, FILE_SYSTEM.to_string()),
        udev::Entry::Unread(why) => {
            (State::Unknown(BlockDeviceReason::UdevUnread { name }.into()), why.to_string())
        }
        udev::Entry::NoDatabase => {
            (State::Unmet(BlockDeviceReason::NoUdev { name }.into()), "there is no /run/udev".into())
        }
        udev::Entry::Lines(_) | udev::Entry::Missing => {
            let not = BlockDeviceReason::NotFileSystemInUdev { name };
            (State::Unmet(not.into()), format!("no {FILE_SYSTEM}"))
        }
    };
    let is_read = !matches!(entry, udev::Entry::Unread(_));
    let mut all = vec![Assessment::new(Requirement::UdevEntry, state, value, udev::file(&number)).of(path)];
    if is_read && matches!(top.kind, Kind::Md(_)) && !entry.has("E:MD_LEVEL=raid0") {
        let state = State::Unmet(BlockDeviceReason::RaidUnknownToUdev { name: top.name.clone() }.into());
        let file = udev::file(&number);
        let found = Assessment::new(Requirement::UdevRaid, state, "no E:MD_LEVEL=raid0", file).of(path);
        all.push(found.needed_by(Need::Only(Way::NvidiaFs)));
    }
    all
}

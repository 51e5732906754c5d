//! The file system that holds a path: its type, its options, and what GDS makes of them.

use std::path::Path;

use crate::doctor::check::{Check, Status};
use crate::doctor::ways::{Finding, Need, Way};
use crate::node::source::{Source, Unread};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub mount_point: String,
    /// The part of the file system that is seen here: `/`, or another directory of a bind mount or subvolume.
    pub root: String,
    pub fs_type: String,
    /// What was mounted: `/dev/nvme0n1p1`, `server:/export`, `overlay`.
    pub device: String,
    /// `259:2`; the major number is 0 where the file system has no block device of its own (btrfs, networks).
    pub number: String,
    /// Of the mount and of the file system.
    pub options: Vec<String>,
}

impl Mount {
    /// The mount that holds `path`, which is absolute and free of links.
    pub fn of(source: &Source, path: &Path) -> Result<Mount, Unread> {
        let text = source.text(MOUNTINFO)?;
        // A later mount hides an earlier one at the same place.
        let mounts = text.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.mount_point));
        mounts.max_by_key(|mount| Path::new(&mount.mount_point).components().count()).ok_or(Unread::Missing)
    }

    /// The block device below, as the kernel names it: `nvme0n1p1`, `dm-0`, `md0`. None where that can't be told,
    /// which proves no way.
    pub fn block_device(&self, source: &Source) -> Option<String> {
        let name_of = |path: String| path.rsplit('/').next().map(str::to_string);
        if !self.number.starts_with("0:") {
            return name_of(source.canonical(&format!("/sys/dev/block/{}", self.number)).ok()?)
                .filter(|name| source.is_there(&format!("/sys/class/block/{name}")) == Ok(true));
        }
        let device = self.device.starts_with("/dev/").then(|| source.canonical(&self.device).ok())??;
        name_of(device).filter(|name| source.is_there(&format!("/sys/class/block/{name}")) == Ok(true))
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }
}

/// Of `36 27 259:2 / /mnt rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,data=ordered`.
fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (number, root, point, options) = (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (fs_type, device) = (file_system.next()?, file_system.next()?);
    let options = options.split(',').chain(file_system.next().unwrap_or("").split(','));
    Some(Mount {
        mount_point: unescape(point),
        root: unescape(root),
        fs_type: fs_type.to_string(),
        device: unescape(device),
        number: number.to_string(),
        options: options.filter(|o| !o.is_empty()).map(str::to_string).collect(),
    })
}

/// The kernel writes blanks and backslashes as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let value =
            octal.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (value, after.get(3..)) {
            (Some(byte), Some(after)) => {
                bytes.push(byte);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

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

/// The file systems on a local drive that cuFile serves.
pub fn is_served(fs_type: &str) -> bool {
    matches!(fs_type, "ext4" | "xfs")
}

pub fn findings(source: &Source, path: &str, mount: &Mount) -> Vec<Finding> {
    let mut findings = vec![fs_type(path, mount)];
    if mount.fs_type == "ext4" {
        findings.push(ext4_journal(source, path, mount));
    }
    if mount.options.iter().any(|o| o == "dax" || o == "dax=always") {
        let check = Check::new("fs.dax", path, Status::Fail, "dax", MOUNTINFO)
            .why("mounted with dax: reads are copies by the processor")
            .remedy(format!("sudo mount -o remount,dax=never {}", mount.mount_point));
        findings.push(Finding::new(Need::Both, check));
    }
    findings
}

fn fs_type(path: &str, mount: &Mount) -> Finding {
    let kind = mount.fs_type.as_str();
    let value = format!("{kind} at {}", mount.mount_point);
    let check = |status, why: &str, remedy: &str| {
        Check::new("fs.type", path, status, value.clone(), MOUNTINFO).why(why).remedy(remedy)
    };
    const MOVE: &str = "keep the models on ext4 or xfs, straight on an NVMe drive";
    let (need, check) = match kind {
        "ext4" | "xfs" => (Need::Both, Check::new("fs.type", path, Status::Pass, value.clone(), MOUNTINFO)),
        "overlay" => (
            Need::Both,
            check(
                Status::Fail,
                "the path is on overlay, a container's layers: they hide the real file system from cuFile",
                "mount the models into the container: docker run -v /mnt/models:/models",
            ),
        ),
        "btrfs" | "zfs" | "bcachefs" => {
            let why = format!("cuFile does not serve {kind}: it transforms data (checksums, compression)");
            (Need::Both, check(Status::Fail, &why, MOVE))
        }
        "tmpfs" | "ramfs" => (
            Need::Both,
            check(Status::Fail, &format!("{kind} is memory: there is no drive to read from"), MOVE),
        ),
        _ if network_driver(kind).is_some() => (
            Need::Only(Way::P2pdma),
            check(Status::Fail, &format!("{kind} comes over a network, which P2PDMA does not serve"), MOVE),
        ),
        _ => (Need::Both, check(Status::Fail, &format!("cuFile does not serve {kind}"), MOVE)),
    };
    Finding::new(need, check)
}

/// cuFile wants to read `data=ordered` in the mount table. Newer kernels print it only where it was asked for.
fn ext4_journal(source: &Source, path: &str, mount: &Mount) -> Finding {
    let asked = mount.options.iter().find(|o| o.starts_with("data="));
    let remedy = format!("sudo mount -o remount,data=ordered {} (and in /etc/fstab)", mount.mount_point);
    let check = match asked.map(String::as_str) {
        Some("data=ordered") => Check::new("fs.journal", path, Status::Pass, "data=ordered", MOUNTINFO),
        Some(other) => Check::new("fs.journal", path, Status::Fail, other, MOUNTINFO)
            .why(format!("ext4 is mounted with {other}: cuFile serves only data=ordered"))
            .remedy(format!(
                "umount, then: sudo mount -o data=ordered {} {}",
                mount.device, mount.mount_point
            )),
        None if mount.has("norecovery") || mount.has("noload") => {
            Check::new("fs.journal", path, Status::Fail, "no journal", MOUNTINFO)
                .why("ext4 is mounted without its journal: cuFile serves only data=ordered")
                .remedy(remedy)
        }
        None => {
            let file =
                format!("/proc/fs/ext4/{}/options", mount.device.rsplit('/').next().unwrap_or_default());
            let text = source.text(&file).unwrap_or_default();
            let kept = text.lines().find(|line| line.starts_with("data=")).unwrap_or("not stated");
            Check::new("fs.journal", path, Status::Fail, format!("{kept}, not in the mount table"), MOUNTINFO)
                .why(
                    "the mount table does not say data=ordered: cuFile looks for it there, and falls back to \
                     compatibility mode",
                )
                .remedy(remedy)
        }
    };
    Finding::new(Need::Both, check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines() {
        let line =
            r"36 27 259:2 /a\040b /mnt/c\134d rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,data=ordered";
        let mount = parse(line).unwrap();
        assert_eq!((mount.root.as_str(), mount.mount_point.as_str()), ("/a b", r"/mnt/c\d"));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "data=ordered"]);
        assert_eq!(parse("36 27 259:2 / /mnt rw"), None);
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\999x"), r"\999x");
    }

    #[test]
    fn the_deepest_and_latest_mount_holds_a_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /mnt rw - xfs /dev/sdb rw\n\
                     3 1 8:3 / /mnt rw - ext4 /dev/sdc rw\n4 1 8:4 / /mntx rw - tmpfs t rw\n";
        std::fs::write(dir.path().join("proc/self/mountinfo"), table).unwrap();
        let source = Source::recorded(dir.path()).unwrap();
        let at = |path: &str| Mount::of(&source, Path::new(path)).unwrap().number;
        assert_eq!((at("/mnt/a"), at("/mntx"), at("/var")), ("8:3".into(), "8:4".into(), "8:1".into()));
    }
}

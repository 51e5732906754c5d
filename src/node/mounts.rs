//! Mounts: which one holds a path, and what lies below it.

use std::path::Path;

use crate::node::source::{Source, Unread};

pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of `/proc/self/mountinfo` (proc(5)).
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
    /// Of this mount: `rw,noatime`.
    pub mount_options: String,
    /// Of the file system, the same for all its mounts: `rw,data=ordered`.
    pub fs_options: String,
}

impl Mount {
    /// The mount that holds `path`, which is absolute and free of links. Found by path: several file systems and
    /// mounts share one device number, and the number that a btrfs file tells is in no line.
    pub fn of(source: &Source, path: &Path) -> Result<Mount, Unread> {
        let text = source.text(MOUNTINFO)?;
        // A later mount hides an earlier one at the same place, and of equal ones the last is taken.
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

    /// The journal's mode that ext4 keeps, asked for or not: `data=ordered`.
    pub fn ext4_journal_mode(&self, source: &Source) -> Option<String> {
        let name = self.device.rsplit('/').next().unwrap_or_default();
        let text = source.text(&format!("/proc/fs/ext4/{name}/options")).ok()?;
        text.lines().find(|line| line.starts_with("data=")).map(str::to_string)
    }

    /// Of the mount and of the file system.
    pub fn options(&self) -> impl Iterator<Item = &str> {
        self.mount_options.split(',').chain(self.fs_options.split(',')).filter(|option| !option.is_empty())
    }

    pub fn has(&self, option: &str) -> bool {
        self.options().any(|o| o == option)
    }
}

/// Of `36 27 259:2 / /mnt rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,data=ordered`.
fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (number, root, point, options) = (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (fs_type, device) = (file_system.next()?, file_system.next()?);
    Some(Mount {
        mount_point: unescape(point),
        root: unescape(root),
        fs_type: fs_type.to_string(),
        device: unescape(device),
        number: number.to_string(),
        mount_options: options.to_string(),
        fs_options: file_system.next().unwrap_or_default().to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{Tree, tree_of};

    #[test]
    fn mount_lines() {
        let line =
            r"36 27 259:2 /a\040b /mnt/c\134d rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw,data=ordered";
        let mount = parse(line).unwrap();
        assert_eq!((mount.root.as_str(), mount.mount_point.as_str()), ("/a b", r"/mnt/c\d"));
        assert_eq!(mount.options().collect::<Vec<_>>(), ["rw", "noatime", "rw", "data=ordered"]);
        assert_eq!(parse("36 27 259:2 / /mnt rw"), None);
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\999x"), r"\999x");
    }

    fn table(lines: &str) -> Tree {
        tree_of(&format!("=== {MOUNTINFO}\n{lines}\n"))
    }

    fn at(tree: &Tree, path: &str) -> Mount {
        Mount::of(&tree.source, Path::new(path)).unwrap()
    }

    #[test]
    fn the_deepest_and_latest_mount_holds_a_path() {
        let tree = table(
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /mnt rw - xfs /dev/sdb rw\n\
             3 1 8:3 / /mnt rw - ext4 /dev/sdc rw\n4 1 8:4 / /mntx rw - tmpfs t rw",
        );
        let at = |path: &str| at(&tree, path).number;
        assert_eq!((at("/mnt/a"), at("/mntx"), at("/var")), ("8:3".into(), "8:4".into(), "8:1".into()));
    }

    /// As recorded on a system that keeps `/` and `/home` in subvolumes of one btrfs; files there tell `0:35`.
    #[test]
    fn subvolumes_of_btrfs_are_told_apart_and_have_their_drive() {
        let tree = tree_of(
            "=== /proc/self/mountinfo\n\
             26 1 0:24 /root / rw,relatime shared:1 - btrfs /dev/nvme0n1p3 rw,compress=zstd:1,ssd,subvolid=256,subvol=/root\n\
             53 26 0:24 /home /home rw,noatime shared:28 - btrfs /dev/nvme0n1p3 rw,compress=zstd:1,ssd,subvolid=257,subvol=/home\n\
             57 26 259:2 / /boot rw,relatime shared:30 - ext4 /dev/nvme0n1p2 rw\n\
             +++ /dev\n\
             === /dev/nvme0n1p3\n\n\
             +++ /sys/class/block/nvme0n1p3\n",
        );
        let (root, home) = (at(&tree, "/srv/models"), at(&tree, "/home/me/models"));
        assert_eq!((root.root.as_str(), home.root.as_str()), ("/root", "/home"));
        assert_eq!((home.mount_options.as_str(), home.fs_type.as_str()), ("rw,noatime", "btrfs"));
        assert_eq!(home.block_device(&tree.source).as_deref(), Some("nvme0n1p3"));
    }

    /// One device number in three lines: only the path tells which mount's options hold.
    #[test]
    fn a_bind_mount_is_not_its_file_systems_first_mount() {
        let tree = table(
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
             2 1 259:1 / /data rw,noatime - xfs /dev/nvme0n1 rw,attr2\n\
             3 1 259:1 /models /srv/models ro,relatime - xfs /dev/nvme0n1 rw,attr2\n\
             4 1 259:1 /scratch /scratch rw,nosuid - xfs /dev/nvme0n1 rw,attr2",
        );
        let models = at(&tree, "/srv/models/llama");
        assert_eq!((models.root.as_str(), models.mount_options.as_str()), ("/models", "ro,relatime"));
        assert_eq!(at(&tree, "/data/models").mount_options, "rw,noatime");
        assert_eq!(at(&tree, "/srv").number, "8:1");
    }

    #[test]
    fn an_overlay_holds_what_no_volume_does_and_has_no_drive() {
        let tree = table(
            "600 500 0:51 / / rw,relatime - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w\n\
             601 600 0:55 / /proc rw,nosuid - proc proc rw\n\
             610 600 259:1 /var/lib/models /models ro - ext4 /dev/nvme0n1p1 rw",
        );
        let own = at(&tree, "/srv/models");
        assert_eq!((own.fs_type.as_str(), own.block_device(&tree.source)), ("overlay", None));
        assert_eq!(at(&tree, "/models/llama").fs_type, "ext4");
    }

    #[test]
    fn blanks_in_mount_points() {
        let tree = table(
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /mnt/my\\040models rw - xfs /dev/sdb rw\n\
             3 1 8:3 / /mnt/my rw - ext4 /dev/sdc rw",
        );
        assert_eq!(at(&tree, "/mnt/my models/llama").number, "8:2");
        assert_eq!(at(&tree, "/mnt/my/models").number, "8:3");
    }
}

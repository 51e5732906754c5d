//! Limits on reads that this process's groups have: `io.max`, and version 1's `blkio.throttle`.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::cgroup;
use crate::node::cgroup::Group;
use crate::node::source::{Source, Unread};

/// One check: whether anything limits this process's reads of a device that `storage` names (`xfs on md0 (raid0) on
/// nvme0n1, nvme1n1`), or, where it names none, of any.
pub fn check(source: &Source, storage: &str) -> Check {
    let at = "/proc/self/cgroup; io.max or blkio.throttle.read_* up to the root";
    let check = |status, value: String| Check::new(CheckId::IoLimit, "this machine", status, value, at);
    let groups = match source.text("/proc/self/cgroup") {
        Ok(groups) => groups,
        Err(why) => return check(Status::Unknown, why.to_string()),
    };
    let (mut limits, mut untold) = (Vec::new(), None);
    for group in groups_of(&groups) {
        let mut is_seen = group.is_there(source);
        for (file, version) in group.files() {
            match source.text(&file) {
                Ok(text) => {
                    // A container may see its own group as the root of the mount alone.
                    is_seen = Ok(true);
                    limits.extend(text.lines().filter_map(|line| limit(source, line, version, &file)));
                }
                Err(Unread::Missing) => {}
                Err(why) => untold = Some(format!("{file}: {why}")),
            }
        }
        match is_seen {
            Ok(true) => {}
            Ok(false) => {
                untold = Some(format!("the group {} is not seen below {}", group.group.path, group.mount))
            }
            Err(why) => untold = Some(format!("the group {} below {}: {why}", group.group.path, group.mount)),
        }
    }
    let names: Vec<&str> = storage.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    // Where the storage names no device, any limit may be on what is below it.
    let named = names_a_device(source, &names);
    if named != Ok(false) {
        let is_ours =
            |limit: &Limit| limit.device.as_ref().is_ok_and(|device| names.contains(&device.as_str()));
        let (ours, others): (Vec<Limit>, Vec<Limit>) = limits.into_iter().partition(is_ours);
        limits = ours;
        for Limit { number, device, .. } in others {
            if let Some(why) = device.err().or(named.clone().err()) {
                untold = Some(format!("whether the limit on {number} is for this storage: {why}"));
            }
        }
    }
    let limits: Vec<String> = limits.iter().map(Limit::in_words).collect();
    match (limits.is_empty(), untold) {
        (false, _) => check(Status::Warn, limits.join("; "))
            .why("reads of this process are held to that rate, whatever the drives can do")
            .remedy("raise io.max of the group (systemd: IOReadBandwidthMax=), or run outside of it"),
        (true, Some(why)) => check(Status::Unknown, why),
        (true, None) => check(Status::Pass, "none".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// `8:0 rbps=1048576 wbps=max riops=max wiops=max`
    Max,
    /// `8:0 1048576`, bytes or reads a second.
    Bytes,
    Reads,
}

/// This process's group in one hierarchy that can limit reads.
struct IoGroup<'a> {
    /// Where the hierarchy lies.
    mount: &'static str,
    group: Group<'a>,
    files: &'static [(&'static str, Version)],
}

impl IoGroup<'_> {
    /// Whether its directory is there. Every group has this file, and a directory that holds other mounts does not.
    fn is_there(&self, source: &Source) -> Result<bool, Unread> {
        source.is_there(&format!("{}{}/cgroup.procs", self.mount, self.group.path.trim_end_matches('/')))
    }

    /// The files that may hold a limit, from the group itself up to the root of the mount.
    fn files(&self) -> Vec<(String, Version)> {
        let of = |at: &str| -> Vec<(String, Version)> {
            self.files
                .iter()
                .map(|(name, version)| (format!("{}{at}/{name}", self.mount), *version))
                .collect()
        };
        self.group.and_parents().flat_map(of).collect()
    }
}

/// This process's groups. Where the first version has the block devices, the second has not.
fn groups_of(text: &str) -> Vec<IoGroup<'_>> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for group in cgroup::groups(text) {
        if group.is_v2 {
            new.push(IoGroup { mount: "/sys/fs/cgroup", group, files: &[("io.max", Version::Max)] });
        } else if group.controllers.contains(&"blkio") {
            let files = &[
                ("blkio.throttle.read_bps_device", Version::Bytes),
                ("blkio.throttle.read_iops_device", Version::Reads),
            ];
            old.push(IoGroup { mount: "/sys/fs/cgroup/blkio", group, files });
        }
    }
    if old.is_empty() { new } else { old }
}

/// Whether one of `names` is a block device; an error where none is for certain, and one may be.
fn names_a_device(source: &Source, names: &[&str]) -> Result<bool, Unread> {
    let mut answer = Ok(false);
    for name in names.iter().filter(|name| !name.is_empty()) {
        match source.is_there(&format!("/sys/class/block/{name}")) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => answer = Err(why),
        }
    }
    answer
}

/// What one line limits.
struct Limit {
    /// `8:0`
    number: String,
    /// Its name, or the number again where there is no such device.
    device: Result<String, Unread>,
    rate: String,
    file: String,
}

impl Limit {
    fn in_words(&self) -> String {
        format!("{} at {} ({})", self.device.as_ref().unwrap_or(&self.number), self.rate, self.file)
    }
}

/// A line's limit on reads, if it sets one.
fn limit(source: &Source, line: &str, version: Version, file: &str) -> Option<Limit> {
    let (number, rest) = line.split_once(' ')?;
    let value = |name: &str| rest.split(' ').find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
    let rate = |bytes: u64| format!("{:.3} GB/s", bytes as f64 / 1e9);
    let reads = |n: u64| format!("{n} reads/s");
    let words = match version {
        Version::Max => {
            let both = [value("rbps=").map(rate), value("riops=").map(reads)];
            both.into_iter().flatten().collect::<Vec<_>>().join(" and ")
        }
        Version::Bytes => rate(rest.trim().parse().ok()?),
        Version::Reads => reads(rest.trim().parse().ok()?),
    };
    if words.is_empty() {
        return None;
    }
    let device = device_of(source, number).map(|name| name.unwrap_or(number.to_string()));
    Some(Limit { number: number.to_string(), device, rate: words, file: file.to_string() })
}

/// The name of the block device with this number; none where there is no such device.
fn device_of(source: &Source, number: &str) -> Result<Option<String>, Unread> {
    let path = source.canonical(&format!("/sys/dev/block/{number}"))?;
    Ok(source.is_there(&path)?.then(|| path.rsplit('/').next().unwrap_or(number).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    fn of(text: &str) -> Check {
        check(&tree_of(text).source, "ext4 on nvme1n1p1 on nvme1n1")
    }

    #[test]
    fn limits_of_the_own_group_and_its_parents() {
        let own = of("=== /proc/self/cgroup\n0::/a/b\n=== /sys/fs/cgroup/a/b/io.max\n\
             8:0 rbps=max wbps=5 riops=max wiops=max\n=== /sys/fs/cgroup/a/io.max\n\
             259:1 rbps=500000000 wbps=max riops=1000 wiops=max\n\
             -> /sys/dev/block/259:1 ../../devices/nvme1n1\n+++ /sys/devices/nvme1n1\n");
        assert_eq!(own.status, Status::Warn);
        assert_eq!(own.value, "nvme1n1 at 0.500 GB/s and 1000 reads/s (/sys/fs/cgroup/a/io.max)");
    }

    #[test]
    fn the_first_version_and_an_unknown_device() {
        let old = of(
            "=== /proc/self/cgroup\n4:blkio:/x\n=== /sys/fs/cgroup/blkio/x/blkio.throttle.read_bps_device\n\
             8:16 2000000000\n",
        );
        assert!(old.value.starts_with("8:16 at 2.000 GB/s"), "{}", old.value);
    }

    #[test]
    fn limits_of_other_devices_are_not_ours() {
        let limits = "=== /proc/self/cgroup\n0::/\n=== /sys/fs/cgroup/io.max\n8:0 rbps=1000 wbps=max\n\
             -> /sys/dev/block/8:0 ../../devices/sda\n+++ /sys/devices/sda\n+++ /sys/class/block/nvme1n1\n";
        assert_eq!(of(limits).status, Status::Pass);
        assert_eq!(
            check(&tree_of(limits).source, "overlay on overlay").status,
            Status::Warn,
            "it may be below"
        );
    }

    #[test]
    fn whose_limit_it_is_may_not_be_told() {
        let limit = "=== /proc/self/cgroup\n0::/\n=== /sys/fs/cgroup/io.max\n8:0 rbps=1000 wbps=max\n\
             -> /sys/dev/block/8:0 ../../devices/sda\n+++ /sys/devices/sda\n";
        let unread = |path: &str| format!("=== /sllm-gds/unread.json\n{{\"{path}\": \"Denied\"}}\n");
        // Which device the limit is on, then whether the storage's own names are devices.
        let on = of(&format!("{limit}+++ /sys/class/block/nvme1n1\n{}", unread("/sys/devices/sda")));
        assert_eq!(on.status, Status::Unknown, "{}", on.value);
        let own = unread("/sys/class/block/nvme1n1");
        let own = of(&format!("{limit}{own}"));
        assert_eq!(own.status, Status::Unknown, "{}", own.value);
        assert!(
            own.value.contains("the limit on 8:0 is for this storage: not ours to read"),
            "{}",
            own.value
        );
        let ours = tree_of(&format!("{limit}{}", unread("/sys/class/block/ext4")));
        assert_eq!(check(&ours.source, "ext4 on sda").status, Status::Warn, "its name is enough");
    }

    #[test]
    fn no_limit_and_not_told() {
        let root = "=== /sys/fs/cgroup/cgroup.procs\n1\n";
        assert_eq!(of(&format!("=== /proc/self/cgroup\n0::/\n{root}")).status, Status::Pass);
        assert_eq!(of("=== /proc/self/cgroup\n").status, Status::Pass, "in no group");
        assert_eq!(of("+++ /proc\n").status, Status::Unknown);
    }
    #[test]
    fn a_group_that_is_not_seen_is_not_known_to_be_free() {
        let own = "=== /proc/self/cgroup\n0::/a/b\n";
        let unmounted = of(own);
        assert_eq!(unmounted.status, Status::Unknown);
        assert_eq!(unmounted.value, "the group /a/b is not seen below /sys/fs/cgroup");
        assert_eq!(of(&format!("{own}+++ /sys/fs/cgroup/a/b\n")).status, Status::Unknown, "no group");
        let seen = of(&format!("{own}=== /sys/fs/cgroup/a/b/cgroup.procs\n1\n"));
        assert_eq!((seen.status, seen.value.as_str()), (Status::Pass, "none"), "without the io controller");
        // In a container: the host's names, and the own group as the root.
        assert_eq!(of(&format!("{own}=== /sys/fs/cgroup/io.max\n\n")).status, Status::Pass);
        // Both versions: the second lies elsewhere, and has the block devices where the first has not.
        let both = "=== /proc/self/cgroup\n4:blkio:/\n0::/x\n=== /sys/fs/cgroup/blkio/cgroup.procs\n1\n";
        assert_eq!(of(both).status, Status::Pass);
        let unified = "=== /proc/self/cgroup\n4:cpu:/\n0::/\n+++ /sys/fs/cgroup/unified\n";
        assert_eq!(of(unified).status, Status::Unknown);
    }
}

//! Limits on reads that this process's groups have: `io.max`, and version 1's `blkio.throttle`.

use crate::doctor::check::{Check, Status};
use crate::doctor::source::{Source, Unread};

const ID: &str = "machine.io-limit";

/// One check: whether anything limits this process's reads of a device that `storage` names (`xfs on md0 (raid0) on
/// nvme0n1, nvme1n1`), or, where it names none, of any.
pub fn check(source: &Source, storage: &str) -> Check {
    let at = "/proc/self/cgroup; io.max or blkio.throttle.read_* up to the root";
    let check = |status, value: String| Check::new(ID, "this machine", status, value, at);
    let groups = match source.text("/proc/self/cgroup") {
        Ok(groups) => groups,
        Err(why) => return check(Status::Unknown, why.to_string()),
    };
    let (mut limits, mut denied) = (Vec::new(), None);
    for (file, version) in files(&groups) {
        match source.text(&file) {
            Ok(text) => limits.extend(text.lines().filter_map(|line| limit(source, line, version, &file))),
            Err(Unread::Missing) => {}
            Err(why) => denied = Some(format!("{file}: {why}")),
        }
    }
    let words: Vec<&str> = storage.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    let is_ours = |(device, _): &(String, String)| words.contains(&device.as_str());
    let known =
        words.iter().any(|word| !word.is_empty() && source.exists(&format!("/sys/class/block/{word}")));
    if known {
        limits.retain(is_ours);
    }
    let limits: Vec<String> =
        limits.into_iter().map(|(device, words)| format!("{device} at {words}")).collect();
    match (limits.is_empty(), denied) {
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

/// The files that may hold a limit, from this process's own group up to the root of the mount.
fn files(groups: &str) -> Vec<(String, Version)> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let names: &[(&str, Version)] = match number {
            "0" if controllers.is_empty() => &[("io.max", Version::Max)],
            _ if controllers.split(',').any(|name| name == "blkio") => &[
                ("blkio.throttle.read_bps_device", Version::Bytes),
                ("blkio.throttle.read_iops_device", Version::Reads),
            ],
            _ => continue,
        };
        let mount = if controllers.is_empty() { "" } else { "/blkio" };
        let mut group = Some(path.trim_end_matches('/'));
        while let Some(at) = group {
            let in_group =
                |(name, version): &(&str, Version)| (format!("/sys/fs/cgroup{mount}{at}/{name}"), *version);
            files.extend(names.iter().map(in_group));
            group = at.rsplit_once('/').map(|(parent, _)| parent);
        }
    }
    files
}

/// A line's device and its limit on reads in words, if it sets one.
fn limit(source: &Source, line: &str, version: Version, file: &str) -> Option<(String, String)> {
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
    let device = source.canonical(&format!("/sys/dev/block/{number}")).ok();
    let known = |path: &String| source.exists(path);
    let name = device.filter(known).and_then(|path| path.rsplit('/').next().map(str::to_string));
    Some((name.unwrap_or(number.to_string()), format!("{words} ({file})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::hardware::test_tree::tree_of;

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
    fn no_limit_and_not_told() {
        assert_eq!(of("=== /proc/self/cgroup\n0::/\n").status, Status::Pass);
        assert_eq!(of("+++ /proc\n").status, Status::Unknown);
    }
}

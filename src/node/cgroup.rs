//! Control groups of this process, in both versions: where their limits stand, how high they are, and what they leave of
//! memory. A container is limited by its groups, not by its machine.

use crate::node::source::{Source, Unread};

/// One controller's names in both versions of cgroups.
pub struct Controller {
    name: &'static str,
    file_v2: &'static str,
    file_v1: &'static str,
}

const MEMORY: Controller =
    Controller { name: "memory", file_v2: "memory.max", file_v1: "memory.limit_in_bytes" };
const CPU: Controller = Controller { name: "cpu", file_v2: "cpu.max", file_v1: "cpu.cfs_quota_us" };

/// One line of `/proc/self/cgroup`: this process's group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'t> {
    /// The second version's only hierarchy, which has all controllers that the first has not.
    pub is_v2: bool,
    pub controllers: Vec<&'t str>,
    /// From the mount's root: `/a/b`, or `/`.
    pub path: &'t str,
}

impl<'t> Group<'t> {
    /// The group's path and those above it, the root's last: none has a slash at its end, so that the root's is empty.
    pub fn and_parents(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        std::iter::successors(Some(self.path.trim_end_matches('/')), |path: &&str| {
            path.rsplit_once('/').map(|(parent, _)| parent)
        })
    }
}

/// The groups that `/proc/self/cgroup` names.
pub fn groups(text: &str) -> Vec<Group<'_>> {
    let group = |line| {
        let mut fields = str::splitn(line, 3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_v2 = number == "0" && controllers.is_empty();
        let controllers = controllers.split(',').filter(|name| !name.is_empty()).collect();
        Some(Group { is_v2, controllers, path })
    };
    text.lines().filter_map(group).collect()
}

/// The files that may hold a limit, from this process's own group up to the root of the mount. A container may see
/// its host's names here and only its own group there: then only the last ones exist.
fn files(text: &str, controller: &Controller) -> Vec<String> {
    let mut files = Vec::new();
    for group in groups(text) {
        let (mount, file) = match group.is_v2 {
            true => (String::new(), controller.file_v2),
            false if group.controllers.contains(&controller.name) => {
                (format!("/{}", controller.name), controller.file_v1)
            }
            false => continue,
        };
        files.extend(group.and_parents().map(|path| format!("/sys/fs/cgroup{mount}{path}/{file}")));
    }
    files
}

/// This process's files of a controller; an error where its groups are not told.
fn own_files(source: &Source, controller: &Controller) -> Result<Vec<String>, Unread> {
    Ok(files(&source.text("/proc/self/cgroup")?, controller))
}

/// The least limit on memory; `None` where there is none. The first version writes none as a huge number.
pub fn memory_limit_bytes(source: &Source) -> Result<Option<u64>, Unread> {
    let limits = own_files(source, &MEMORY)?.into_iter().filter_map(|file| source.number(&file).ok());
    Ok(limits.min())
}

/// The least limit on processor time, in CPUs; `None` where there is none.
pub fn cpu_limit(source: &Source) -> Result<Option<f64>, Unread> {
    let limits = own_files(source, &CPU)?.into_iter().filter_map(|file| cpus_allowed(source, &file));
    Ok(limits.min_by(f64::total_cmp))
}

/// Reads `QUOTA PERIOD` (v2), or v1's quota with the period beside it, as CPUs. `None` is no limit.
fn cpus_allowed(source: &Source, file: &str) -> Option<f64> {
    let text = source.text(file).ok()?;
    let (quota, period) = match text.split_once(' ') {
        Some((quota, period)) => (quota.to_string(), period.to_string()),
        None => (text, source.text(&file.replace("_quota_", "_period_")).ok()?),
    };
    let (quota, period): (i64, i64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// Bytes of memory that this process's groups still allow: the least over all of them. `None` where no group limits
/// memory, or nothing is told.
pub fn memory_left_bytes(source: &Source) -> Option<u64> {
    let files = own_files(source, &MEMORY).ok()?;
    files.into_iter().filter_map(|file| left_of(source, &file)).min()
}

/// What one group leaves. The page cache of files counts as used, and is given back when memory is asked for.
fn left_of(source: &Source, limit: &str) -> Option<u64> {
    let (group, _) = limit.rsplit_once('/')?;
    let number = |name: &str| source.number(&format!("{group}/{name}")).ok();
    let limit_bytes = source.number(limit).ok()?;
    let used_bytes = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = source.text(&format!("{group}/memory.stat")).unwrap_or_default();
    // The first version counts the groups below by names of their own.
    let of = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
    };
    let cached = |name: &str| of(&format!("total_{name}")).or_else(|| of(name)).unwrap_or(0);
    let cached_bytes = cached("inactive_file").saturating_add(cached("active_file"));
    Some(limit_bytes.saturating_sub(used_bytes.saturating_sub(cached_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the groups of a recorded machine leave.
    fn available_bytes(root: &std::path::Path) -> Option<u64> {
        memory_left_bytes(&Source::recorded(root).ok()?)
    }

    #[test]
    fn both_versions_are_walked_up() {
        assert_eq!(
            files("0::/a/b\n", &MEMORY),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            files("5:cpu,memory:/x\n3:cpuset:/\n", &MEMORY),
            ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert!(files("nonsense\n1:cpu\n", &CPU).is_empty());
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_says_what_is_left_and_the_page_cache_does_not_count() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "10000\n"),
            ("sys/fs/cgroup/a/memory.current", "7000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 2000\nactive_file 500\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "7000\n"),
        ]);
        assert_eq!(available_bytes(root.path()), Some(5500));
        std::fs::write(root.path().join("sys/fs/cgroup/a/b/memory.max"), "7100").unwrap();
        assert_eq!(available_bytes(root.path()), Some(100));
        std::fs::write(root.path().join("sys/fs/cgroup/a/b/memory.max"), "6000").unwrap();
        assert_eq!(available_bytes(root.path()), Some(0));
    }

    #[test]
    fn the_first_version_and_no_limit() {
        let dir = "sys/fs/cgroup/memory/x";
        let root = tree(&[
            ("proc/self/cgroup", "5:memory:/x\n"),
            (&format!("{dir}/memory.limit_in_bytes"), "1000"),
            (&format!("{dir}/memory.usage_in_bytes"), "900"),
            (
                &format!("{dir}/memory.stat"),
                "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 0\n",
            ),
        ]);
        assert_eq!(available_bytes(root.path()), Some(400));
        assert_eq!(available_bytes(tree(&[("proc/self/cgroup", "0::/\n")]).path()), None);
        assert_eq!(available_bytes(tree(&[]).path()), None);
    }
}

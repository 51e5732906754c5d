//! Control groups of this process, in both versions: where their limits stand, and what they leave of memory.

use std::path::Path;

/// One controller's names in both versions of cgroups.
pub struct Controller {
    name: &'static str,
    file_v2: &'static str,
    file_v1: &'static str,
}

pub const MEMORY: Controller =
    Controller { name: "memory", file_v2: "memory.max", file_v1: "memory.limit_in_bytes" };
pub const CPU: Controller = Controller { name: "cpu", file_v2: "cpu.max", file_v1: "cpu.cfs_quota_us" };

/// The files that may hold a limit, from this process's own group up to the root of the mount. A container may see
/// its host's names here and only its own group there: then only the last ones exist.
pub fn files(groups: &str, controller: &Controller) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mount, file) = match number {
            "0" if controllers.is_empty() => (String::new(), controller.file_v2),
            _ if controllers.split(',').any(|name| name == controller.name) => {
                (format!("/{}", controller.name), controller.file_v1)
            }
            _ => continue,
        };
        let mut group = path.trim_end_matches('/');
        loop {
            files.push(format!("/sys/fs/cgroup{mount}{group}/{file}"));
            match group.rsplit_once('/') {
                Some((parent, _)) => group = parent,
                None => break,
            }
        }
    }
    files
}

/// Bytes of memory that this process's groups still allow, below a root that is `/` but in tests: the least over all of
/// them. `None` where no group limits memory, or nothing is told.
pub fn available_bytes(root: &Path) -> Option<u64> {
    let at = |file: &str| root.join(file.trim_start_matches('/'));
    let groups = std::fs::read_to_string(at("/proc/self/cgroup")).ok()?;
    files(&groups, &MEMORY).into_iter().filter_map(|file| left_of(&at(&file))).min()
}

/// What one group leaves. The page cache of files counts as used, and is given back when memory is asked for.
fn left_of(limit: &Path) -> Option<u64> {
    let number =
        |name: &str| std::fs::read_to_string(limit.with_file_name(name)).ok()?.trim().parse::<u64>().ok();
    let limit_bytes = std::fs::read_to_string(limit).ok()?.trim().parse::<u64>().ok()?;
    let used_bytes = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = std::fs::read_to_string(limit.with_file_name("memory.stat")).unwrap_or_default();
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

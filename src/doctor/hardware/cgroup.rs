//! What the groups of this process allow it: memory, and CPU time.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::hardware::machine;
use crate::doctor::words::binary_bytes;
use crate::node::cgroup;
use crate::node::memory;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;

/// With fewer, the ring of pinned buffers is no longer filled at the speed of PCIe 5.
const CPUS_WANTED: f64 = 16.0;

pub fn checks(source: &Source, gpus: &[GpuFacts]) -> Vec<Check> {
    let (Ok(memory_limit), Ok(cpu_limit)) = (cgroup::memory_limit_bytes(source), cgroup::cpu_limit(source))
    else {
        let unknown = |id| {
            Check::new(
                id,
                machine::SUBJECT,
                Status::Unknown,
                "this process's cgroup is not told",
                "/proc/self/cgroup",
            )
        };
        return vec![unknown(CheckId::MemoryLimit), unknown(CheckId::CpuLimit)];
    };
    vec![memory_check(source, memory_limit, gpus), cpu_check(cpu_limit)]
}

fn memory_check(source: &Source, limit: Option<u64>, gpus: &[GpuFacts]) -> Check {
    let at = "/proc/self/cgroup; memory.max or memory.limit_in_bytes up to the root";
    let check = |status, value: String| Check::new(CheckId::MemoryLimit, machine::SUBJECT, status, value, at);
    let total = memory::total_bytes(source);
    // A limit of all memory or more, such as v1's "none", limits nothing.
    let Some(limit) = limit.filter(|limit| total.is_none_or(|total| *limit < total)) else {
        return check(Status::Pass, "none".into());
    };
    let gpu_bytes = gpus.iter().filter_map(|gpu| gpu.memory_total_bytes).fold(0, u64::saturating_add);
    if limit >= gpu_bytes {
        return check(Status::Pass, binary_bytes(limit))
            .why("pinned buffers and the page cache of what is read count against it");
    }
    check(Status::Warn, binary_bytes(limit))
        .why(format!(
            "the page cache counts: a checkpoint that fills the GPUs ({}) can't stay cached",
            binary_bytes(gpu_bytes)
        ))
        .remedy("raise the container's or service's memory limit")
}

fn cpu_check(limit: Option<f64>) -> Check {
    let at = "/proc/self/cgroup; cpu.max or cpu.cfs_quota_us up to the root";
    let check = |status, value: String| Check::new(CheckId::CpuLimit, machine::SUBJECT, status, value, at);
    let Some(limit) = limit else { return check(Status::Pass, "none".into()) };
    let value = format!("{limit:.1} CPUs");
    match limit < CPUS_WANTED {
        true => check(Status::Warn, value)
            .why("reader threads are stopped for the rest of each period once it is used up")
            .remedy("raise the container's or service's CPU limit while it loads"),
        false => check(Status::Pass, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::{tree, tree_of};

    fn status_and_value(name: &str, id: &str) -> (Status, String) {
        let tree = tree(name);
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        let check = checks(&tree.source, &gpus).into_iter().find(|check| check.id.name() == id).unwrap();
        (check.status, check.value)
    }

    #[test]
    fn limits_of_a_container_and_of_none() {
        let memory = status_and_value("container-no-udev", "machine.memory-limit");
        assert_eq!(memory, (Status::Warn, "16.00 GiB".into()));
        assert_eq!(
            status_and_value("container-no-udev", "machine.cpu-limit"),
            (Status::Warn, "8.0 CPUs".into())
        );
        assert_eq!(status_and_value("bare-metal-gds", "machine.memory-limit"), (Status::Pass, "none".into()));
        assert_eq!(status_and_value("bare-metal-gds", "machine.cpu-limit"), (Status::Pass, "none".into()));
    }

    #[test]
    fn a_parents_limit_holds() {
        let nested = tree_of(
            "=== /proc/self/cgroup\n0::/a/b\n=== /sys/fs/cgroup/a/memory.max\n4096\n\
             === /sys/fs/cgroup/a/b/memory.max\nmax\n=== /sys/fs/cgroup/a/b/cpu.max\nmax 100000\n\
             === /sys/fs/cgroup/a/cpu.max\n3200000 100000\n",
        );
        let checks = checks(&nested.source, &[]);
        assert_eq!((checks[0].value.as_str(), checks[1].value.as_str()), ("4.00 KiB", "32.0 CPUs"));
        assert_eq!(checks[1].status, Status::Pass);
    }

    #[test]
    fn the_first_version_has_a_file_for_each_half() {
        let tree = |quota: &str| {
            tree_of(&format!(
                "=== /proc/self/cgroup\n4:cpu,cpuacct:/\n=== /sys/fs/cgroup/cpu/cpu.cfs_quota_us\n{quota}\n\
                 === /sys/fs/cgroup/cpu/cpu.cfs_period_us\n100000\n"
            ))
        };
        let limit = |quota| checks(&tree(quota).source, &[]).remove(1).value;
        assert_eq!(limit("250000"), "2.5 CPUs");
        assert_eq!(limit("-1"), "none");
    }
}

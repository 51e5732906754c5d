//! The machine around GPUs and drives: IOMMU, lockable memory, huge pages, page cache, CPUs.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::words::binary_bytes;
use crate::node::cpu;
use crate::node::iommu;
use crate::node::memory;
use crate::node::nvme;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;
use crate::node::virtualization;

pub const SUBJECT: &str = "this machine";

/// What Linux has given every process since 5.16. A lower limit is someone's choice or an old system's.
const MEMLOCK_USUAL_BYTES: u64 = 8 << 20;

pub fn checks(source: &Source, gpus: &[GpuFacts]) -> Vec<Check> {
    vec![iommu(source, gpus), memlock(source), huge_pages(source), page_cache(source), cpus(source)]
}

fn check(id: CheckId, status: Status, value: impl Into<String>, at: &str) -> Check {
    Check::new(id, SUBJECT, status, value, at)
}

fn iommu(source: &Source, gpus: &[GpuFacts]) -> Check {
    let at = "/sys/class/iommu, /sys/bus/pci/devices/*/iommu_group/type, /proc/cmdline";
    let check = |status, value: String| check(CheckId::Iommu, status, value, at);
    let units = match iommu::units(source) {
        Ok(units) => units,
        Err(why) => return check(Status::Unknown, why.to_string()),
    };
    if units.is_empty() && virtualization::is_virtual(source) {
        return check(Status::Unknown, "none in this virtual machine".into())
            .why("the host's own stands between drive and GPU, and only the host can tell");
    }
    if units.is_empty() {
        return check(Status::Pass, "off".into());
    }
    let gpu_addresses = gpus.iter().map(|gpu| gpu.pci_address.clone());
    let drive_addresses = nvme::controllers(source).into_iter().map(|(_, place)| place.address().to_string());
    let domains: Vec<(String, String)> = gpu_addresses
        .chain(drive_addresses)
        .filter_map(|address| iommu::domain_of(source, &address).map(|domain| (address, domain)))
        .collect();
    let translating: Vec<&str> = domains
        .iter()
        .filter(|(_, domain)| domain != "identity")
        .map(|(address, _)| address.as_str())
        .collect();
    let parameters = iommu::parameters(source).join(" ");
    let parameters = if parameters.is_empty() { parameters } else { format!(" ({parameters})") };
    match (domains.is_empty(), translating.is_empty()) {
        (true, _) => check(Status::Unknown, format!("on{parameters}; no device is in a group"))
            .why("the kernel does not tell whether it translates"),
        (false, true) => check(Status::Pass, format!("on, identity for GPUs and drives{parameters}")),
        (false, false) => check(
            Status::Warn,
            format!("translates for {}{parameters}", translating.join(", ")),
        )
        .why("bytes between a drive and a GPU must go up to the root complex; GDS is slow or off")
        .remedy("boot with iommu=pt (Intel: intel_iommu=on iommu=pt), or turn the IOMMU off in the firmware"),
    }
}

fn memlock(source: &Source) -> Check {
    let at = "/proc/self/limits, Max locked memory";
    let limits = match memory::lock_limits(source) {
        Ok(limits) => limits,
        Err(why) => return check(CheckId::LockedMemory, Status::Unknown, why.to_string(), at),
    };
    let shown = |limit: Option<u64>| limit.map_or("unlimited".into(), binary_bytes);
    let value = format!("{}, hard limit {}", shown(limits.soft_bytes), shown(limits.hard_bytes));
    match limits.soft_bytes {
        Some(soft) if soft < MEMLOCK_USUAL_BYTES => check(CheckId::LockedMemory, Status::Warn, value, at)
            .why("CUDA pins memory without it, but io_uring's buffers and RDMA are held to it")
            .remedy("ulimit -l unlimited; in a container --ulimit memlock=-1; for a service LimitMEMLOCK=infinity"),
        _ => check(CheckId::LockedMemory, Status::Pass, value, at),
    }
}

fn huge_pages(source: &Source) -> Check {
    let at = "/sys/kernel/mm/transparent_hugepage/enabled, /proc/sys/vm/nr_hugepages";
    let reserved = match source.number("/proc/sys/vm/nr_hugepages") {
        Ok(n) => format!("; {n} reserved"),
        Err(_) => String::new(),
    };
    let chosen = match memory::huge_pages(source) {
        Ok(chosen) => chosen,
        Err(why) => return check(CheckId::HugePages, Status::Unknown, format!("{why}{reserved}"), at),
    };
    let value = format!("transparent: {chosen}{reserved}");
    match chosen.as_str() {
        "never" => check(CheckId::HugePages, Status::Warn, value, at)
            .why("pinning goes page by page: seconds for a large buffer instead of tenths")
            .remedy("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        _ => check(CheckId::HugePages, Status::Pass, value, at),
    }
}

fn page_cache(source: &Source) -> Check {
    let at = "/proc/meminfo";
    let shown = |bytes: Option<u64>| bytes.map_or("?".to_string(), binary_bytes);
    let total = memory::total_bytes(source);
    let value = format!(
        "{} cached, {} of {} available",
        shown(memory::cached_bytes(source)),
        shown(memory::machine_available_bytes(source)),
        shown(total)
    );
    let status = if total.is_some() { Status::Pass } else { Status::Unknown };
    check(CheckId::PageCache, status, value, at)
}

fn cpus(source: &Source) -> Check {
    let at = "/sys/devices/system/cpu/online, cpu*/cpufreq/scaling_governor, /proc/self/status";
    let online = cpu::online_count(source);
    let mut count = online.map_or("?".to_string(), |n| n.to_string());
    if let Some(ours) = cpu::allowed_count(source).filter(|ours| Some(*ours) < online) {
        count = format!("{ours} of {count}");
    }
    let governors = cpu::governors(source);
    if governors.is_empty() {
        return check(CheckId::Cpu, Status::Unknown, format!("{count} CPUs, no governor"), at)
            .why("the kernel does not set the clock here, as is usual in virtual machines");
    }
    let value = format!("{count} CPUs, {}", governors.join(" and "));
    match governors.iter().any(|governor| governor == "powersave") {
        true => check(CheckId::Cpu, Status::Warn, value, at)
            .why("reader threads wake up on slow cores")
            .remedy("cpupower frequency-set -g performance"),
        false => check(CheckId::Cpu, Status::Pass, value, at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    fn find(name: &str, id: &str) -> Check {
        let tree = crate::node::test_tree::tree(name);
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        checks(&tree.source, &gpus).into_iter().find(|check| check.id.name() == id).unwrap()
    }

    #[test]
    fn a_translating_iommu_is_told_with_its_devices() {
        assert_eq!(find("bare-metal-gds", "machine.iommu").status, Status::Pass);
        let check = find("raid0-no-p2pdma", "machine.iommu");
        assert_eq!(check.status, Status::Warn);
        assert!(
            check.value.contains("0000:81:00.0") && check.value.contains("intel_iommu=on"),
            "{}",
            check.value
        );
    }

    #[test]
    fn little_lockable_memory_is_told() {
        let memlock = find("container-no-udev", "machine.memlock");
        assert_eq!(
            (memlock.status, memlock.value.contains("64.00 KiB")),
            (Status::Warn, true),
            "{memlock:?}"
        );
        assert_eq!(find("bare-metal-gds", "machine.memlock").status, Status::Pass);
    }

    #[test]
    fn governors() {
        assert_eq!(find("laptop", "machine.cpu").status, Status::Warn);
        assert_eq!(find("bare-metal-gds", "machine.cpu").status, Status::Pass);
        assert_eq!(find("container-no-udev", "machine.cpu").value, "16 of 64 CPUs, performance");
    }

    #[test]
    fn no_huge_pages_is_a_warning() {
        let never = tree_of("=== /sys/kernel/mm/transparent_hugepage/enabled\nalways madvise [never]\n");
        assert_eq!(huge_pages(&never.source).status, Status::Warn);
        let always = tree_of("=== /sys/kernel/mm/transparent_hugepage/enabled\n[always] madvise never\n");
        assert_eq!(huge_pages(&always.source).value, "transparent: always");
    }
}

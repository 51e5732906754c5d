//! The machine around GPUs and drives: IOMMU, lockable memory, huge pages, page cache, CPUs.

use serde::{Deserialize, Serialize};

use crate::doctor::check::{Check, Status};
use crate::doctor::hardware::drives;
use crate::doctor::hardware::gpu::bytes;
use crate::doctor::hardware::pci;
use crate::doctor::hardware::virtualization;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};

pub const SUBJECT: &str = "this machine";

/// The limits of this process, in bytes; `None` is unlimited. Recorded as the fact `limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Limits {
    memlock_soft_bytes: Option<u64>,
    memlock_hard_bytes: Option<u64>,
}

/// What Linux has given every process since 5.16. A lower limit is someone's choice or an old system's.
const MEMLOCK_USUAL_BYTES: u64 = 8 << 20;

pub fn checks(source: &Source, gpus: &[GpuFacts]) -> Vec<Check> {
    vec![iommu(source, gpus), memlock(source), huge_pages(source), page_cache(source), cpus(source)]
}

fn check(id: &'static str, status: Status, value: impl Into<String>, at: &str) -> Check {
    Check::new(id, SUBJECT, status, value, at)
}

fn iommu(source: &Source, gpus: &[GpuFacts]) -> Check {
    let at = "/sys/class/iommu, /sys/bus/pci/devices/*/iommu_group/type, /proc/cmdline";
    let check = |status, value: String| check("machine.iommu", status, value, at);
    let units = match source.list("/sys/class/iommu") {
        Ok(units) => units,
        Err(Unread::Missing) => Vec::new(),
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
    let drive_addresses =
        drives::controllers(source).into_iter().map(|(_, place)| place.address().to_string());
    let types: Vec<(String, String)> = gpu_addresses
        .chain(drive_addresses)
        .filter_map(|address| {
            let kind = source.text(&format!("{}/iommu_group/type", pci::device_path(&address))).ok()?;
            Some((address, kind))
        })
        .collect();
    let translating: Vec<&str> =
        types.iter().filter(|(_, kind)| kind != "identity").map(|(address, _)| address.as_str()).collect();
    let parameters = parameters(source);
    match (types.is_empty(), translating.is_empty()) {
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

/// The kernel's parameters that are about the IOMMU, ready to be appended.
fn parameters(source: &Source) -> String {
    let line = source.text("/proc/cmdline").unwrap_or_default();
    let about: Vec<&str> = line.split_whitespace().filter(|word| word.contains("iommu")).collect();
    if about.is_empty() { String::new() } else { format!(" ({})", about.join(" ")) }
}

fn memlock(source: &Source) -> Check {
    let at = "/proc/self/limits, Max locked memory";
    let probe = || parse_limits(&Source::live(false).text("/proc/self/limits")?);
    let limits = match source.fact::<Limits>("limits", probe) {
        Ok(limits) => limits,
        Err(why) => return check("machine.memlock", Status::Unknown, why.to_string(), at),
    };
    let shown = |limit: Option<u64>| limit.map_or("unlimited".into(), bytes);
    let value =
        format!("{}, hard limit {}", shown(limits.memlock_soft_bytes), shown(limits.memlock_hard_bytes));
    match limits.memlock_soft_bytes {
        Some(soft) if soft < MEMLOCK_USUAL_BYTES => check("machine.memlock", Status::Warn, value, at)
            .why("CUDA pins memory without it, but io_uring's buffers and RDMA are held to it")
            .remedy("ulimit -l unlimited; in a container --ulimit memlock=-1; for a service LimitMEMLOCK=infinity"),
        _ => check("machine.memlock", Status::Pass, value, at),
    }
}

/// Reads `Max locked memory  SOFT  HARD  bytes`.
fn parse_limits(text: &str) -> Result<Limits, Unread> {
    let other = || Unread::Other("/proc/self/limits has no line 'Max locked memory'".into());
    let rest = text.lines().find_map(|line| line.strip_prefix("Max locked memory")).ok_or_else(other)?;
    let limit = |word: Option<&str>| match word {
        Some("unlimited") => Ok(None),
        Some(n) => n.parse().map(Some).map_err(|_| other()),
        None => Err(other()),
    };
    let mut words = rest.split_whitespace();
    Ok(Limits { memlock_soft_bytes: limit(words.next())?, memlock_hard_bytes: limit(words.next())? })
}

fn huge_pages(source: &Source) -> Check {
    let at = "/sys/kernel/mm/transparent_hugepage/enabled, /proc/sys/vm/nr_hugepages";
    let reserved = match source.number("/proc/sys/vm/nr_hugepages") {
        Ok(n) => format!("; {n} reserved"),
        Err(_) => String::new(),
    };
    let text = match source.text("/sys/kernel/mm/transparent_hugepage/enabled") {
        Ok(text) => text,
        Err(why) => return check("machine.huge-pages", Status::Unknown, format!("{why}{reserved}"), at),
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(&text);
    let value = format!("transparent: {chosen}{reserved}");
    match chosen {
        "never" => check("machine.huge-pages", Status::Warn, value, at)
            .why("pinning goes page by page: seconds for a large buffer instead of tenths")
            .remedy("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        _ => check("machine.huge-pages", Status::Pass, value, at),
    }
}

fn page_cache(source: &Source) -> Check {
    let at = "/proc/meminfo";
    let shown = |name| meminfo(source, name).map_or("?".to_string(), bytes);
    let value =
        format!("{} cached, {} of {} available", shown("Cached"), shown("MemAvailable"), shown("MemTotal"));
    let status = if meminfo(source, "MemTotal").is_some() { Status::Pass } else { Status::Unknown };
    check("machine.page-cache", status, value, at)
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(source: &Source, name: &str) -> Option<u64> {
    let text = source.text("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cpus(source: &Source) -> Check {
    let at = "/sys/devices/system/cpu/online, cpu*/cpufreq/scaling_governor, /proc/self/status";
    let online = source.text("/sys/devices/system/cpu/online").unwrap_or_default();
    let mut count = count_of_list(&online).map_or("?".to_string(), |n| n.to_string());
    if let Some(ours) = cpus_of_this_process(source).filter(|ours| Some(*ours) < count_of_list(&online)) {
        count = format!("{ours} of {count}");
    }
    let names = source.list("/sys/devices/system/cpu").unwrap_or_default();
    let is_cpu = |name: &&String| {
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut governors: Vec<String> = names
        .iter()
        .filter(is_cpu)
        .filter_map(|cpu| {
            source.text(&format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")).ok()
        })
        .collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        return check("machine.cpu", Status::Unknown, format!("{count} CPUs, no governor"), at)
            .why("the kernel does not set the clock here, as is usual in virtual machines");
    }
    let value = format!("{count} CPUs, {}", governors.join(" and "));
    match governors.iter().any(|governor| governor == "powersave") {
        true => check("machine.cpu", Status::Warn, value, at)
            .why("reader threads wake up on slow cores")
            .remedy("cpupower frequency-set -g performance"),
        false => check("machine.cpu", Status::Pass, value, at),
    }
}

/// How many CPUs this process may run on.
fn cpus_of_this_process(source: &Source) -> Option<u64> {
    let status = source.text("/proc/self/status").ok()?;
    count_of_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
}

/// How many numbers `0-3,8` names.
fn count_of_list(list: &str) -> Option<u64> {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.split(',').map(count).try_fold(0u64, |sum, n| sum.checked_add(n?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    fn find(name: &str, id: &str) -> Check {
        let tree = crate::node::test_tree::tree(name);
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        checks(&tree.source, &gpus).into_iter().find(|check| check.id == id).unwrap()
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
        assert_eq!(count_of_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_of_list("3-0"), None);
        assert_eq!(count_of_list(""), None);
    }

    #[test]
    fn limits_are_parsed() {
        let line = |soft: &str| {
            format!("Max file size  unlimited unlimited bytes\nMax locked memory  {soft}  unlimited  bytes")
        };
        let soft = |text: &str| parse_limits(&line(text)).map(|limits| limits.memlock_soft_bytes);
        assert_eq!(soft("65536"), Ok(Some(65536)));
        assert_eq!(soft("unlimited"), Ok(None));
        assert!(soft("much").is_err() && parse_limits("").is_err());
    }

    #[test]
    fn no_huge_pages_is_a_warning() {
        let never = tree_of("=== /sys/kernel/mm/transparent_hugepage/enabled\nalways madvise [never]\n");
        assert_eq!(huge_pages(&never.source).status, Status::Warn);
        let always = tree_of("=== /sys/kernel/mm/transparent_hugepage/enabled\n[always] madvise never\n");
        assert_eq!(huge_pages(&always.source).value, "transparent: always");
    }
}

//! Processors: their model, whether a hypervisor runs them, how many there are, and how they are clocked.

use crate::node::source::Source;

/// The first CPU's model in words; not every architecture tells it.
pub fn model(source: &Source) -> Option<String> {
    first_of(&source.text("/proc/cpuinfo").ok()?, "model name").map(str::to_string)
}

/// Whether the first CPU has the flag that hypervisors set; ARM has no flags of this name.
pub fn is_virtual(source: &Source) -> Option<bool> {
    let text = source.text("/proc/cpuinfo").ok()?;
    first_of(&text, "flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

/// The first value of `name : value`.
fn first_of<'t>(cpuinfo: &'t str, name: &str) -> Option<&'t str> {
    let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|n| n.trim() == name))?;
    Some(line.split_once(':')?.1.trim())
}

/// How many CPUs are online.
pub fn online_count(source: &Source) -> Option<u64> {
    count_of_list(&source.text("/sys/devices/system/cpu/online").ok()?)
}

/// How many CPUs this process may run on.
pub fn allowed_count(source: &Source) -> Option<u64> {
    let status = source.text("/proc/self/status").ok()?;
    count_of_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
}

/// The clock governors of all CPUs, each once. Empty where the kernel does not set the clock.
pub fn governors(source: &Source) -> Vec<String> {
    let names = source.list("/sys/devices/system/cpu").unwrap_or_default();
    let is_cpu = |name: &&String| {
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let governor =
        |cpu: &String| source.text(&format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")).ok();
    let mut governors: Vec<String> = names.iter().filter(is_cpu).filter_map(governor).collect();
    governors.sort();
    governors.dedup();
    governors
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

    #[test]
    fn lists_are_counted() {
        assert_eq!(count_of_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_of_list("3-0"), None);
        assert_eq!(count_of_list(""), None);
    }
}

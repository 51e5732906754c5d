//! Memory: how much there is, how much can still be had, what may be locked, and how large its pages are.

use serde::{Deserialize, Serialize};

use crate::node::cgroup;
use crate::node::source::{Source, Unread};
use crate::os::text::size;

pub fn total_bytes(source: &Source) -> Option<u64> {
    meminfo_bytes(source, "MemTotal")
}

/// What the page cache holds.
pub fn cached_bytes(source: &Source) -> Option<u64> {
    meminfo_bytes(source, "Cached")
}

/// What the machine could still give, its page cache given back.
pub fn machine_available_bytes(source: &Source) -> Option<u64> {
    meminfo_bytes(source, "MemAvailable")
}

/// Bytes of memory that can still be had here: of the machine, and within the limits of this process's groups, past
/// which a container's processes are killed. `None` where neither is told.
pub fn available_bytes() -> Option<u64> {
    available_bytes_of(&Source::live(false))
}

/// Less memory is there than was asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "the load needs {} of host memory and {} are available, the limits of its container or service counted: raise these, \
     close other programs, or load a smaller checkpoint",
    size(*needed_bytes),
    size(*free_bytes)
)]
pub struct NoMemory {
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

/// Refuses to begin what memory can't hold.
pub fn check(needed_bytes: u64) -> Result<(), NoMemory> {
    match available_bytes() {
        Some(free_bytes) if needed_bytes > free_bytes => Err(NoMemory { needed_bytes, free_bytes }),
        _ => Ok(()),
    }
}

/// As [`available_bytes`], of the machine that `source` shows.
pub fn available_bytes_of(source: &Source) -> Option<u64> {
    machine_available_bytes(source).into_iter().chain(cgroup::memory_left_bytes(source)).min()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo_bytes(source: &Source, name: &str) -> Option<u64> {
    let text = source.text("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What this process may lock, in bytes; `None` is unlimited. Recorded as the fact `limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockLimits {
    #[serde(rename = "memlock_soft_bytes")]
    pub soft_bytes: Option<u64>,
    #[serde(rename = "memlock_hard_bytes")]
    pub hard_bytes: Option<u64>,
}

pub fn lock_limits(source: &Source) -> Result<LockLimits, Unread> {
    source.fact("limits", || parse_limits(&Source::live(false).text("/proc/self/limits")?))
}

/// Reads `Max locked memory  SOFT  HARD  bytes`.
fn parse_limits(text: &str) -> Result<LockLimits, Unread> {
    let other = || Unread::Other("/proc/self/limits has no line 'Max locked memory'".into());
    let rest = text.lines().find_map(|line| line.strip_prefix("Max locked memory")).ok_or_else(other)?;
    let limit = |word: Option<&str>| match word {
        Some("unlimited") => Ok(None),
        Some(n) => n.parse().map(Some).map_err(|_| other()),
        None => Err(other()),
    };
    let mut words = rest.split_whitespace();
    Ok(LockLimits { soft_bytes: limit(words.next())?, hard_bytes: limit(words.next())? })
}

/// The file of [`huge_pages`].
pub const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// When memory comes in huge pages: `always`, `madvise` or `never`.
pub fn huge_pages(source: &Source) -> Result<String, Unread> {
    let text = source.text(HUGE_PAGES)?;
    Ok(text.split(['[', ']']).nth(1).unwrap_or(&text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_memory_is_refused() {
        let error = check(1 << 50).err().unwrap();
        assert_eq!(error.needed_bytes, 1 << 50);
        assert!(error.to_string().contains("available"), "{error}");
        assert!(check(4096).is_ok());
    }
    use crate::node::test_tree::tree_of;

    #[test]
    fn limits_are_parsed() {
        let line = |soft: &str| {
            format!("Max file size  unlimited unlimited bytes\nMax locked memory  {soft}  unlimited  bytes")
        };
        let soft = |text: &str| parse_limits(&line(text)).map(|limits| limits.soft_bytes);
        assert_eq!(soft("65536"), Ok(Some(65536)));
        assert_eq!(soft("unlimited"), Ok(None));
        assert!(soft("much").is_err() && parse_limits("").is_err());
    }

    #[test]
    fn the_lesser_of_machine_and_container_is_available() {
        let machine = "=== /proc/meminfo\nMemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n";
        let of = |more: &str| available_bytes_of(&tree_of(&format!("{machine}{more}")).source);
        let group = |limit: &str| {
            format!(
                "=== /proc/self/cgroup\n0::/a\n=== /sys/fs/cgroup/a/memory.max\n{limit}\n\
                 === /sys/fs/cgroup/a/memory.current\n1000\n"
            )
        };
        assert_eq!(of(""), Some(4096));
        assert_eq!(of(&group("max")), Some(4096));
        assert_eq!(of(&group("3000")), Some(2000));
        assert_eq!(of(&group("1000000")), Some(4096), "a container may promise more than there is");
        assert_eq!(available_bytes_of(&tree_of(&group("3000")).source), Some(2000));
        assert_eq!(available_bytes_of(&tree_of("+++ /proc\n").source), None);
    }

    #[test]
    fn this_machine_tells_what_it_has() {
        let live = Source::live(false);
        assert!(available_bytes().unwrap() <= total_bytes(&live).unwrap());
    }
}

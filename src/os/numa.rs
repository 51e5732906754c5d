//! Threads and memory near what they serve, on machines with several NUMA nodes. All of it is advice: where the system has
//! one node, or does not allow it, that costs speed and not bytes, and nothing is said.

use std::path::Path;

/// Keeps this thread, and so the memory that it touches first, on a NUMA node, within the CPUs that it may run on already:
/// who pinned it elsewhere meant that. Does nothing on machines with one node.
pub fn run_near(numa_node: Option<u32>) {
    let several = Path::new("/sys/devices/system/node/node1").exists();
    let Some(node) = numa_node.filter(|_| several) else { return };
    if let Ok(text) = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")) {
        run_on(&parse_cpu_list(&text));
    }
}

/// Keeps this thread on those of these CPUs that it may run on; leaves it as it is where there are none.
fn run_on(cpus: &[usize]) {
    if let Some(met) = allowed().and_then(|allowed| meet(&allowed, cpus)) {
        allow(&met);
    }
}

/// What two masks share, unless that is nothing or all of the first: then there is nothing to change.
fn meet(allowed: &[usize], near: &[usize]) -> Option<Vec<usize>> {
    let met: Vec<usize> = allowed.iter().copied().filter(|cpu| near.contains(cpu)).collect();
    (!met.is_empty() && met.len() < allowed.len()).then_some(met)
}

/// The CPUs that this thread may run on. `None` where that isn't told, as with more CPUs than a mask of libc's has.
fn allowed() -> Option<Vec<usize>> {
    // SAFETY: cpu_set_t is plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is live, writable and of the size given; 0 means this thread.
    if unsafe { libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set) } != 0 {
        return None;
    }
    // SAFETY: the index is below CPU_SETSIZE.
    let is_set = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Some((0..libc::CPU_SETSIZE as usize).filter(is_set).collect())
}

fn allow(cpus: &[usize]) {
    // SAFETY: cpu_set_t is plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: `set` is live and of the size given; 0 means this thread.
    unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) };
}

/// Reads "0-3,8,10-11" (sysfs). Nonsense counts as nothing.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// `MPOL_PREFERRED` and `MPOL_INTERLEAVE` of `linux/mempolicy.h`.
const PREFERRED: libc::c_int = 1;
const INTERLEAVE: libc::c_int = 3;

/// Nodes that a mask of ours has; kernels are built for up to 1024.
const MOST_NODES: usize = 1024;
const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// Which nodes memory should come from, as `mbind` takes it. `None` where there is nothing to ask for.
fn policy(nodes: &[u32]) -> Option<(libc::c_int, [libc::c_ulong; MOST_NODES / WORD_BITS])> {
    let mut mask: [libc::c_ulong; MOST_NODES / WORD_BITS] = [0; MOST_NODES / WORD_BITS];
    for node in nodes.iter().map(|node| *node as usize).filter(|node| *node < MOST_NODES) {
        mask[node / WORD_BITS] |= 1 << (node % WORD_BITS);
    }
    match mask.iter().map(|word| word.count_ones()).sum::<u32>() {
        0 => None,
        1 => Some((PREFERRED, mask)),
        _ => Some((INTERLEAVE, mask)),
    }
}

/// Asks for this memory on one node, or spread over several, before it is touched: what is there already stays where it is.
/// It must begin at a page.
pub fn place(memory: &mut [u8], nodes: &[u32]) {
    let Some((mode, mask)) = policy(nodes) else { return };
    // SAFETY: the range is the caller's alone and mapped, and its bytes don't change: a policy says where pages come from
    // that are not there yet. `mask` is live and has as many bits as said, of which the kernel leaves the last unread.
    unsafe {
        libc::syscall(
            libc::SYS_mbind,
            memory.as_mut_ptr(),
            memory.len(),
            mode,
            mask.as_ptr(),
            MOST_NODES + 1,
            0,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_cpu_list(""), [0usize; 0]);
        assert_eq!(parse_cpu_list("x-3,2"), [2]);
    }

    #[test]
    fn masks_meet_and_are_left_alone_where_they_do_not() {
        assert_eq!(meet(&[0, 1, 2, 3], &[2, 3, 4, 5]), Some(vec![2, 3]));
        assert_eq!(meet(&[7], &[0, 1]), None, "pinned elsewhere");
        assert_eq!(meet(&[1, 2], &[0, 1, 2, 3]), None, "near already");
        assert_eq!(meet(&[], &[0]), None);
        assert_eq!(meet(&[0, 1], &[]), None);
    }

    #[test]
    fn a_thread_that_is_pinned_to_one_cpu_stays_there() {
        let before = allowed().unwrap();
        let pinned = std::thread::spawn(move || {
            let (own, others) = (before[0], &before[1..]);
            allow(&[own]);
            run_on(others);
            run_on(&before);
            run_on(&[libc::CPU_SETSIZE as usize + 7]);
            for node in [None, Some(0), Some(1), Some(9999)] {
                run_near(node);
            }
            (own, allowed().unwrap())
        });
        let (own, after) = pinned.join().unwrap();
        assert_eq!(after, [own]);
    }

    #[test]
    fn a_thread_moves_within_what_it_may() {
        let before = allowed().unwrap();
        let last = *before.last().unwrap();
        let moved = std::thread::spawn(move || {
            run_on(&[last, libc::CPU_SETSIZE as usize - 1]);
            allowed().unwrap()
        });
        assert_eq!(moved.join().unwrap(), [last]);
        assert_eq!(allowed().unwrap(), before, "other threads stay as they are");
    }

    #[test]
    fn one_node_is_preferred_and_several_share() {
        let of = |nodes: &[u32]| policy(nodes).map(|(mode, mask)| (mode, mask[0], mask[1]));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[4096]), None);
        assert_eq!(of(&[2]), Some((PREFERRED, 4, 0)));
        assert_eq!(of(&[2, 2]), Some((PREFERRED, 4, 0)));
        assert_eq!(of(&[0, 65]), Some((INTERLEAVE, 1, 2)));
    }
}

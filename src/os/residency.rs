//! What the page cache holds of a file.
//!
//! Since early 2025 (CVE-2025-21691) the kernel tells that only to a file's owner and to those who may write it: a server
//! that reads another user's model is told nothing by `cachestat`, and by `mincore`, as ever, that everything is there.
//! What remains is to try: read a byte without waiting. A device that has read it before the call returns (memory behind
//! a block device) makes every trial succeed, so there nothing is tried.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::os::sys;

/// `struct cachestat_range` and `struct cachestat` of Linux 6.5 (`linux/mman.h`).
#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

/// The same number on every architecture that has it.
const SYS_CACHESTAT: libc::c_long = 451;

/// Asks for ranges of one file whether to read them from the page cache.
pub struct Residency(How);

enum How {
    Told(Teller),
    /// A descriptor for trials alone, since what is set on it must not slow other reads down.
    Tried(File),
    Unknown,
}

/// How it is known what the page cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The kernel tells.
    Told,
    /// By reading a byte of it.
    Tried,
    /// Not at all; it then counts as holding nothing.
    Unknown,
}

impl Residency {
    /// Of `file`, which is opened at `path`.
    pub fn of(file: &File, path: &Path) -> io::Result<Residency> {
        Ok(Residency(match Teller::of(file) {
            Some(teller) => How::Told(teller),
            None if reads_may_end_at_once(file) => How::Unknown,
            None => {
                let own = sys::open_regular(path)?;
                let works = read_nothing_ahead(&own).is_ok() && try_byte(&own, 0).is_some();
                if works { How::Tried(own) } else { How::Unknown }
            }
        }))
    }

    pub fn way(&self) -> Way {
        match self.0 {
            How::Told(_) => Way::Told,
            How::Tried(_) => Way::Tried,
            How::Unknown => Way::Unknown,
        }
    }

    /// Whether the page cache holds enough of a range of the file to read it from there. Half is where both ways cost the
    /// same, when a warm byte is free and a cold one costs double. Where the kernel does not tell, one page stands for its
    /// range: any, so that the page that a trial brings in will not pass for all of the range the next time.
    pub fn holds(&self, file: &File, offset: u64, bytes: u64) -> bool {
        match &self.0 {
            How::Told(teller) => teller.resident_bytes(file, offset, bytes).unwrap_or(0) >= bytes.div_ceil(2),
            How::Tried(own) => {
                // The first page is here in any case: opening tried whether trials work.
                let first = if offset == 0 && bytes > sys::page_bytes() { sys::page_bytes() } else { 0 };
                let any = || offset.saturating_add(fastrand::u64(first..bytes));
                bytes > 0 && try_byte(own, any()) == Some(true)
            }
            How::Unknown => false,
        }
    }
}

/// Bytes of `[offset, offset + bytes)` that the page cache holds, or `None` where the kernel does not tell. Asking starts
/// no read-ahead.
pub fn resident_bytes(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    Teller::of(file)?.resident_bytes(file, offset, bytes)
}

/// Which call of the kernel's tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Cachestat,
    Mincore,
}

impl Teller {
    fn of(file: &File) -> Option<Teller> {
        if !is_overlay(file) && cachestat_resident_bytes(file, 0, 1).is_some() {
            return Some(Teller::Cachestat);
        }
        // Refused, or older than Linux 6.5.
        mincore_is_honest(file).then_some(Teller::Mincore)
    }

    fn resident_bytes(self, file: &File, offset: u64, bytes: u64) -> Option<u64> {
        match self {
            _ if bytes == 0 => Some(0),
            Teller::Cachestat => cachestat_resident_bytes(file, offset, bytes),
            Teller::Mincore => mincore_resident_bytes(file, offset, bytes),
        }
    }
}

/// Overlayfs keeps nothing in the page cache under its own files, so that `cachestat` always says 0; a mapping, which
/// `mincore` looks at, is of the file below.
fn is_overlay(file: &File) -> bool {
    // SAFETY: zeros are a valid statfs, a struct of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: takes a descriptor and writes only `found`, which is live.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) };
    rc == 0 && found.f_type == libc::OVERLAYFS_SUPER_MAGIC
}

fn cachestat_resident_bytes(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    let range = CachestatRange { off: offset, len: bytes };
    let mut stat = Cachestat::default();
    // SAFETY: both structs are live, have the kernel's layout, and the kernel only writes `stat`.
    let rc = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &range as *const CachestatRange,
            &mut stat as *mut Cachestat,
            0,
        )
    };
    (rc == 0).then(|| stat.nr_cache.saturating_mul(sys::page_bytes()).min(bytes))
}

/// The older way: map the range (which reads nothing) and ask for its residency vector.
fn mincore_resident_bytes(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    let page_bytes = sys::page_bytes();
    let start = offset - offset % page_bytes;
    let length = usize::try_from(offset - start + bytes).ok()?;
    // SAFETY: a fresh read-only shared mapping of our own descriptor; it is never dereferenced.
    let map = unsafe {
        let at = libc::off_t::try_from(start).ok()?;
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), at)
    };
    if map == libc::MAP_FAILED {
        return None;
    }
    let mut pages = vec![0u8; length.div_ceil(page_bytes as usize)];
    // SAFETY: the mapping is `length` bytes long and `pages` has a byte for each of its pages.
    let rc = unsafe { libc::mincore(map, length, pages.as_mut_ptr()) };
    // SAFETY: `map` and `length` are the mapping made above, unmapped once.
    unsafe { libc::munmap(map, length) };
    (rc == 0).then(|| pages.iter().filter(|p| **p & 1 == 1).count() as u64 * page_bytes).map(|r| r.min(bytes))
}

/// Since Linux 5.2 `mincore` calls everything resident for whoever neither owns the file nor may write it.
fn mincore_is_honest(file: &File) -> bool {
    let user = sys::user_id();
    // SAFETY: an empty C string means the descriptor itself; no memory is written.
    let writable = || unsafe {
        libc::faccessat(file.as_raw_fd(), c"".as_ptr(), libc::W_OK, libc::AT_EACCESS | libc::AT_EMPTY_PATH)
            == 0
    };
    file.metadata().is_ok_and(|m| m.uid() == user) || writable()
}

/// Whether reads may end before the call returns: where a block device below is memory, or none is to be seen (btrfs,
/// network file systems).
fn reads_may_end_at_once(file: &File) -> bool {
    let device = file.metadata().map(|m| m.dev()).unwrap_or_default();
    let link = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    std::fs::canonicalize(link).map_or(true, |device| is_on_memory(&device, 0))
}

/// Whether a block device, by its directory in sysfs, is memory, or lies on such a one.
fn is_on_memory(device: &Path, depth: usize) -> bool {
    const DEPTH_MAX: usize = 8;
    const MEMORY: [&str; 4] = ["zram", "ram", "pmem", "nullb"];
    let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if MEMORY.iter().any(|memory| name.starts_with(memory)) || depth > DEPTH_MAX {
        return true;
    }
    // A partition's devices below are those of the whole.
    let whole = if device.join("partition").exists() { device.parent().unwrap_or(device) } else { device };
    let below = std::fs::read_dir(whole.join("slaves")).into_iter().flatten().flatten();
    below.filter_map(|entry| entry.path().canonicalize().ok()).any(|below| is_on_memory(&below, depth + 1))
}

/// A read of what the page cache lacks then brings in its one page, and no more.
fn read_nothing_ahead(file: &File) -> io::Result<()> {
    advise(file, libc::POSIX_FADV_RANDOM)
}

/// Whether a read that must not wait gives this byte; `None` where the file system knows no such reads.
fn try_byte(file: &File, offset: u64) -> Option<bool> {
    let mut byte = 0u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let offset = libc::off_t::try_from(offset).ok()?;
    // SAFETY: `part` describes one live byte, which outlives the call.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset, libc::RWF_NOWAIT) };
    match n {
        0.. => Some(n == 1),
        _ => (io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock).then_some(false),
    }
}

/// Drops a file's clean pages from the page cache. Dirty pages stay: sync the file first.
pub fn evict(file: &File) -> io::Result<()> {
    advise(file, libc::POSIX_FADV_DONTNEED)
}

fn advise(file: &File, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a descriptor and three integers; no memory is involved.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const PAGES: u64 = 256;

    fn file_on_disk() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.write_all(&vec![7u8; (PAGES * sys::page_bytes()) as usize]).unwrap();
        file.as_file().sync_all().unwrap();
        file
    }

    #[test]
    fn both_ways_to_be_told_agree_and_start_no_read_ahead() {
        let file = file_on_disk();
        let all = PAGES * sys::page_bytes();
        assert_eq!(resident_bytes(file.as_file(), 0, all), mincore_resident_bytes(file.as_file(), 0, all));
        assert!(mincore_is_honest(file.as_file()), "one's own");
        evict(file.as_file()).unwrap();
        let before = resident_bytes(file.as_file(), 0, all).unwrap();
        for _ in 0..3 {
            assert_eq!(resident_bytes(file.as_file(), 0, all), Some(before), "asking brought pages in");
            assert_eq!(mincore_resident_bytes(file.as_file(), 0, all), Some(before));
        }
        let mut byte = [0u8; 1];
        File::open(file.path()).unwrap().read_exact(&mut byte).unwrap();
        assert!(resident_bytes(file.as_file(), 0, sys::page_bytes()).unwrap() == sys::page_bytes());
    }

    #[test]
    fn trials_tell_warm_from_cold_and_bring_in_a_page_each() {
        let file = file_on_disk();
        let all = PAGES * sys::page_bytes();
        let told = Residency::of(file.as_file(), file.path()).unwrap();
        assert_eq!(told.way(), Way::Told, "one's own file");
        let holds = |range: u64| told.holds(file.as_file(), 0, range);
        assert!(holds(all) && !holds(3 * all), "half is asked for");
        let own = File::open(file.path()).unwrap();
        read_nothing_ahead(&own).unwrap();
        if try_byte(&own, 0).is_none() || reads_may_end_at_once(&own) {
            eprintln!("SKIPPED: trials tell nothing on this file system");
            return;
        }
        let trial = Residency(How::Tried(own));
        let holds = || trial.holds(file.as_file(), 0, all);
        assert!((0..20).all(|_| holds()), "what was written is there");
        const TRIALS: u64 = 5;
        // One may hit a page that another brought in; and where this thread is held up in each, all pages may have come.
        let cold_is_told = || {
            evict(file.as_file()).unwrap();
            assert_eq!(resident_bytes(file.as_file(), 0, all), Some(0), "evicted");
            (0..TRIALS).filter(|_| holds()).count() < TRIALS as usize
        };
        assert!((0..20).any(|_| cold_is_told()), "a cold file passed for warm");
        // Bytes in flight count as held: at most the pages that were tried.
        assert!(resident_bytes(file.as_file(), 0, all).unwrap() <= TRIALS * sys::page_bytes());
        assert!(!trial.holds(file.as_file(), 0, 0));
        assert!(!Residency(How::Unknown).holds(file.as_file(), 0, all));
    }

    #[test]
    fn memory_is_seen_below_partitions_and_mapped_devices() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in [
            "pmem0",
            "nvme0n1/nvme0n1p2/slaves",
            "nvme0n1/slaves",
            "dm-0/slaves",
            "dm-1/slaves",
            "dm-2/slaves",
        ] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("nvme0n1/nvme0n1p2/partition"), "2").unwrap();
        let link = |below: &str, above: &str| {
            std::os::unix::fs::symlink(at(below), at(&format!("{above}/slaves")).join(below)).unwrap();
        };
        link("nvme0n1", "dm-0");
        link("dm-0", "dm-1");
        link("pmem0", "dm-2");
        for (device, memory) in
            [("nvme0n1/nvme0n1p2", false), ("dm-1", false), ("pmem0", true), ("dm-2", true)]
        {
            assert_eq!(is_on_memory(&at(device), 0), memory, "{device}");
        }
        link("dm-2", "dm-1");
        assert!(is_on_memory(&at("dm-1"), 0), "one of two below");
    }
}

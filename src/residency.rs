//! What the page cache holds of a file.
//!
//! Since Linux 6.13 (and some older stable releases) the kernel tells that only to a file's owner and to those who may
//! write it: a server that reads another user's model is told nothing by `cachestat`, and by `mincore`, as ever, that
//! everything is there. What remains is to try: read a byte without waiting. A device that has read it before the call
//! returns (memory behind a block device) makes every trial succeed, so there nothing is tried.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys;

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
pub struct Residency {
    /// A descriptor of its own, since what is set on it must not slow other reads down.
    file: File,
    way: Way,
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
    pub fn open(path: &Path) -> io::Result<Residency> {
        let file = sys::open_regular(path)?;
        let way = match resident_bytes(&file, 0, 1) {
            Some(_) => Way::Told,
            None if is_on_memory(&file) => Way::Unknown,
            None => Way::Tried,
        };
        if way == Way::Tried {
            read_nothing_ahead(&file)?;
        }
        Ok(Residency { file, way })
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether the page cache holds enough of a range to read it from there. Half is where both ways cost the same, when
    /// a warm byte is free and a cold one costs double. Where the kernel does not tell, one page stands for its range:
    /// any, so that the page that a trial brings in will not pass for all of the range the next time.
    pub fn holds(&self, offset: u64, bytes: u64) -> bool {
        match self.way {
            Way::Told => resident_bytes(&self.file, offset, bytes).unwrap_or(0) >= bytes.div_ceil(2),
            Way::Tried => bytes > 0 && holds_byte(&self.file, offset.saturating_add(fastrand::u64(..bytes))),
            Way::Unknown => false,
        }
    }
}

/// Bytes of `[offset, offset + bytes)` that the page cache holds, or `None` where the kernel does not tell. Asking starts
/// no read-ahead.
pub fn resident_bytes(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    if bytes == 0 {
        return Some(0);
    }
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
    if rc == 0 {
        return Some((stat.nr_cache.saturating_mul(sys::page_bytes())).min(bytes));
    }
    // Refused, or older than Linux 6.5.
    mincore_resident_bytes(file, offset, bytes).filter(|_| mincore_is_honest(file))
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
    // SAFETY: takes nothing and returns an integer.
    let user = unsafe { libc::geteuid() };
    // SAFETY: an empty C string means the descriptor itself; no memory is written.
    let writable = || unsafe {
        libc::faccessat(file.as_raw_fd(), c"".as_ptr(), libc::W_OK, libc::AT_EACCESS | libc::AT_EMPTY_PATH)
            == 0
    };
    file.metadata().is_ok_and(|m| m.uid() == user) || writable()
}

/// Whether its block device is memory (zram, brd, persistent memory), whose reads end before the call returns.
fn is_on_memory(file: &File) -> bool {
    let Ok(device) = file.metadata().map(|m| m.dev()) else { return false };
    let link = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let name =
        std::fs::read_link(link).ok().and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned()));
    name.is_some_and(|name| ["zram", "ram", "pmem"].iter().any(|memory| name.starts_with(memory)))
}

/// A read of what the page cache lacks then brings in its one page, and no more.
fn read_nothing_ahead(file: &File) -> io::Result<()> {
    advise(file, libc::POSIX_FADV_RANDOM)
}

/// Whether a read that must not wait gives this byte. Where a file system knows no such reads the answer is no.
fn holds_byte(file: &File, offset: u64) -> bool {
    let mut byte = 0u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: `part` describes one live byte, which outlives the call.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset, libc::RWF_NOWAIT) };
    n == 1
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
        let mut trial = Residency::open(file.path()).unwrap();
        assert_eq!(trial.way(), Way::Told, "one's own file");
        assert!(trial.holds(0, all) && !trial.holds(0, 3 * all), "half is asked for");
        trial.way = Way::Tried;
        read_nothing_ahead(&trial.file).unwrap();
        assert!((0..20).all(|_| trial.holds(0, all)), "what was written is there");
        evict(file.as_file()).unwrap();
        let before = resident_bytes(file.as_file(), 0, all).unwrap();
        if before > 0 {
            eprintln!("SKIPPED: this file system keeps {before} bytes in memory");
            return;
        }
        const TRIALS: u64 = 5;
        let found = (0..TRIALS).filter(|_| trial.holds(0, all)).count();
        if is_on_memory(&trial.file) {
            eprintln!("SKIPPED: on such a device every trial succeeds");
            return;
        }
        // One may hit a page that another brought in.
        assert!(found < TRIALS as usize, "a cold file passed for warm");
        // Bytes in flight count as held: at most the pages that were tried.
        assert!(resident_bytes(file.as_file(), 0, all).unwrap() <= TRIALS * sys::page_bytes());
        assert!(!trial.holds(0, 0));
    }
}

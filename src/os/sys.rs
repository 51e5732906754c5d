//! System calls that std does not have, each behind a safe function.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use crate::os::numa::run_near;

/// Alignment that `O_DIRECT` wants of offsets, lengths and addresses, on every common device.
pub const DIRECT_ALIGN: u64 = 4096;

/// Bytes of a page of the page cache: 4 KiB on x86, up to 64 KiB on arm64.
pub fn page_bytes() -> u64 {
    // SAFETY: takes an integer and returns one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1)
}

/// Rounds up to a multiple of `align`, a power of two. Saturates.
pub fn align_up(value: u64, align: u64) -> u64 {
    value.saturating_add(align - 1) & !(align - 1)
}

/// What the system said of a path. Its text is the system's alone: who adds context names the path.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct AtPath {
    pub path: PathBuf,
    /// `errno`, where it was that.
    pub code: Option<i32>,
    text: String,
}

/// Keeps the path with what the system said of it.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let (path, code, text) = (path.to_path_buf(), error.raw_os_error(), error.to_string());
        io::Error::new(error.kind(), AtPath { path, code, text })
    }
}

/// `errno`, also of an error that [`at`] has kept a path with.
pub fn code_of(error: &io::Error) -> Option<i32> {
    let within = || error.get_ref()?.downcast_ref::<AtPath>()?.code;
    error.raw_os_error().or_else(within)
}

/// Opens a regular file for reading. Anything else is refused unopened: opening a FIFO would wait for a writer.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let open = || match std::fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    };
    open().map_err(at(path))
}

/// Opens for reading past the page cache. `EINVAL` means that the file system has no `O_DIRECT`.
pub fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// What `O_DIRECT` wants of a file's reads, in bytes. Zeros mean that the file has no `O_DIRECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of addresses in memory.
    pub memory_bytes: u32,
    /// Of offsets and lengths.
    pub offset_bytes: u32,
}

/// Asks `statx` (Linux 6.1); `None` where the kernel or the file system does not tell.
pub fn direct_alignment(file: &File) -> io::Result<Option<DirectAlignment>> {
    // SAFETY: statx is plain integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a constant that ends in NUL, `stat` is live, and the call writes only `stat`.
    let rc = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut stat)
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let told = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    let align =
        DirectAlignment { memory_bytes: stat.stx_dio_mem_align, offset_bytes: stat.stx_dio_offset_align };
    Ok(told.then_some(align))
}

/// Whether an error says that the file system can't do what was asked of it at all: a flag, or a whole call.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Whether a failed lock says that the file system has no locks (or its lock service is down), not that another holds it.
pub fn has_no_locks(error: &io::Error) -> bool {
    is_unsupported(error) || error.raw_os_error() == Some(libc::ENOLCK)
}

/// Opens a new file for writing past the page cache, or through it where the file system has no `O_DIRECT`.
pub fn create_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(e) if is_unsupported(&e) => {
            // The kernel may have made the file before it refused the flag.
            let _ = std::fs::remove_file(path);
            options.open(path)
        }
        other => other,
    }
}

/// Takes `O_DIRECT` from an open file, for file systems that take the flag and refuse the writes.
pub fn use_page_cache(file: &File) -> io::Result<()> {
    // SAFETY: takes a descriptor and returns its flags; no memory is involved.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: takes a descriptor and its own flags less one; no memory is involved.
    if flags < 0 || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reserves blocks, so that a full disk shows before the first byte. Silent where it is not supported.
pub fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: takes a descriptor and integers; no memory is involved.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e if is_unsupported(&e) => return Ok(()),
            e => return Err(e),
        }
    }
}

/// Bytes that this user may still write to the file system that holds `path`; the most there can be where it tells
/// no sizes, as some in user space.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = c_path(path)?;
    // SAFETY: statvfs is plain integers, for which zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL and `stat` is live; the call writes only `stat`.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if stat.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// Swaps two directories in one step, so that a reader finds one or the other. Not every file system can
/// ([`is_unsupported`]).
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    rename_with(a, b, libc::RENAME_EXCHANGE)
}

/// Renames, unless something stands at the new name: then `AlreadyExists`. Not every file system can
/// ([`is_unsupported`]).
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, libc::RENAME_NOREPLACE)
}

fn rename_with(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both paths end in NUL and outlive the call, which reads nothing else.
    let rc = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a closed pipe (`… | head`) end the process quietly, as it ends any other tool. Call first in `main`.
pub fn end_on_closed_pipe() {
    // SAFETY: restores a default disposition, before any other thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Lets a write to a closed pipe or connection fail like any other write, which the peer's hanging up must not end. Call
/// before any thread is started.
pub fn fail_on_closed_pipe() {
    // SAFETY: ignores a signal, which runs no code of ours, before any other thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets a write past the limit on the size of files (`ulimit -f`) fail like one to a full disk, where the kernel would
/// end the process. Call first in `main`.
pub fn fail_at_file_size_limit() {
    // SAFETY: ignores a signal, which runs no code of ours, before any other thread exists.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Ends the process where it stands: nothing that was left for its end is run, since that may wait.
pub fn end_now(code: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes a directory's entries durable, where the file system can do that to directories.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(e) if is_unsupported(&e) || e.raw_os_error() == Some(libc::EBADF) => Ok(()),
        synced => synced,
    }
}

/// Whether a file system is mounted at this directory, which then can't be renamed.
pub fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let path = c_path(dir)?;
    // SAFETY: statx is plain integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL, `stat` is live, and the call writes only `stat`.
    let rc = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, 0, &mut stat) };
    let root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    if rc == 0 && stat.stx_attributes_mask & root != 0 {
        return Ok(stat.stx_attributes & root != 0);
    }
    // Before Linux 5.8: bind mounts of the same file system go unseen.
    Ok(dir.metadata()?.dev() != dir.join("..").metadata()?.dev())
}

/// Whether a directory's file system belongs to this machine alone, so that a lock seen here holds everywhere. No, where
/// that isn't known.
pub fn is_local(dir: &File) -> bool {
    const F2FS: i64 = 0xf2f5_2010;
    const ZFS: i64 = 0x2fc1_2fc1;
    const BCACHEFS: i64 = 0xca45_1a4e;
    const RAMFS: i64 = 0x8584_58f6;
    // SAFETY: statfs is plain integers, for which zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: takes a descriptor and writes only `found`, which is live.
    let rc = unsafe { libc::fstatfs(dir.as_raw_fd(), &mut found) };
    let known = [
        libc::EXT4_SUPER_MAGIC,
        libc::XFS_SUPER_MAGIC,
        libc::BTRFS_SUPER_MAGIC,
        libc::TMPFS_MAGIC,
        libc::OVERLAYFS_SUPER_MAGIC,
        F2FS,
        ZFS,
        BCACHEFS,
        RAMFS,
    ];
    rc == 0 && known.contains(&found.f_type)
}

/// Peak resident memory of this process, in bytes.
pub fn peak_resident_bytes() -> Option<u64> {
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is live; the call writes only it.
    (unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } == 0).then_some(usage.ru_maxrss as u64 * 1024)
}

/// `struct nvme_admin_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct NvmeAdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    words_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

/// `_IOWR('N', 0x41, struct nvme_admin_cmd)`: 72 bytes, read and written.
const NVME_IOCTL_ADMIN_CMD: u32 = 3 << 30 | 72 << 16 | (b'N' as u32) << 8 | 0x41;
const _: () = assert!(std::mem::size_of::<NvmeAdminCommand>() == 72);

/// The SMART log (log page 2, 512 bytes) of an NVMe controller, such as `/dev/nvme0`. `PermissionDenied` without
/// root's right; only asks, and changes nothing.
pub fn nvme_smart_log(controller: &Path) -> io::Result<[u8; 512]> {
    const GET_LOG_PAGE: u8 = 0x02;
    const SMART: u32 = 0x02;
    const ALL_NAMESPACES: u32 = u32::MAX;
    let file = File::open(controller)?;
    let mut log = [0u8; 512];
    let mut command = NvmeAdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        address: log.as_mut_ptr() as u64,
        data_bytes: log.len() as u32,
        // The page, and how many 4-byte words less one.
        words_10_15: [SMART | (log.len() as u32 / 4 - 1) << 16, 0, 0, 0, 0, 0],
        timeout_ms: 2000,
        ..NvmeAdminCommand::default()
    };
    // SAFETY: `command` has the kernel's layout, checked above, and is live and writable for the call; it names
    // `log`, which is live and as long as said. A device that is no NVMe controller answers ENOTTY.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), NVME_IOCTL_ADMIN_CMD as _, &mut command) };
    match rc {
        0 => Ok(log),
        // The controller's own status: its request reached it and was refused.
        1.. => Err(io::Error::other(format!("the controller refuses: NVMe status {rc:#x}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_path(path: &Path) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(path.as_os_str().as_bytes())?)
}

/// The user that this process acts as.
pub fn user_id() -> u32 {
    // SAFETY: has no precondition and never fails.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligning() {
        assert_eq!(align_up(0, 4096), 0);
        assert_eq!(align_up(1, 4096), 4096);
        assert_eq!(align_up(4096, 4096), 4096);
    }
}

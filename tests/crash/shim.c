/* A library to preload, for tests alone: it sees every call by which the program changes a disk or takes a lock, logs it,
 * and kills the process at it, fails it, or plays a file system that lacks something.
 *
 *   cc -shared -fPIC -O1 -Wall -Wextra -Werror -o shim.so tests/crash/shim.c
 *
 * SHIM_LOG=FILE      appends a line for each such call before it is made: kind, 1 if it may be failed, path, second path
 *                    or mode, with tabs between
 * SHIM_KILL_AT=N     SIGKILL instead of the Nth call; a write writes half of it first
 * SHIM_STOP_AT=N     SIGSTOP before the Nth call, which is made once the process goes on
 * SHIM_FAIL_AT=N     the Nth of those that may be failed fails with SHIM_ERRNO
 * SHIM_WITHOUT=LIST  refuses, as file systems do that lack it: rename-flags, locks (ENOLCK), direct-open, direct-write,
 *                    reserve (fallocate), whole-writes (each write brings about half of what it is given)
 *
 * Counted from 1 over all threads. Calls that change nothing are not seen: a kill at one leaves what a kill at the next
 * one leaves. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum act { GO, FAIL, DIE };

static atomic_long calls, failable_calls;
static long kill_at, stop_at, fail_at;
static int fail_errno, log_fd = -1;
static const char *lacks = "";

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void begin(void) {
    kill_at = number("SHIM_KILL_AT");
    stop_at = number("SHIM_STOP_AT");
    fail_at = number("SHIM_FAIL_AT");
    fail_errno = (int)number("SHIM_ERRNO");
    if (getenv("SHIM_WITHOUT"))
        lacks = getenv("SHIM_WITHOUT");
    if (getenv("SHIM_LOG"))
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("SHIM_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int without(const char *what) { return strstr(lacks, what) != NULL; }

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

static enum act seen(const char *kind, int may_fail, const char *path, const char *second) {
    long call = atomic_fetch_add(&calls, 1) + 1;
    char line[9000];
    int bytes = snprintf(line, sizeof line, "%s\t%d\t%s\t%s\n", kind, may_fail, path, second);
    if (log_fd >= 0 && bytes > 0)
        syscall(SYS_write, log_fd, line, (size_t)bytes);
    if (call == stop_at)
        syscall(SYS_kill, getpid(), SIGSTOP);
    if (call == kill_at)
        return DIE;
    if (may_fail && atomic_fetch_add(&failable_calls, 1) + 1 == fail_at) {
        errno = fail_errno;
        return FAIL;
    }
    return GO;
}

/* For all calls but writes: these may die before they begin. */
static int fails(const char *kind, int may_fail, const char *path, const char *second) {
    enum act act = seen(kind, may_fail, path, second);
    if (act == DIE)
        die();
    return act == FAIL;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

static const char *path_of(int fd, char *room, size_t bytes) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, bytes - 1);
    room[length < 0 ? 0 : length] = 0;
    return room;
}

static int is_direct(int fd) { return fcntl(fd, F_GETFL) & O_DIRECT; }

static int open_seen(int directory, const char *path, int flags, mode_t mode) {
    if (flags & O_CREAT && fails("create", 1, path, ""))
        return -1;
    if (flags & O_DIRECT && without("direct-open")) {
        /* As Linux does: the file is made, and then the flag refused. */
        if (flags & O_CREAT)
            close((int)syscall(SYS_openat, directory, path, flags & ~O_DIRECT, mode));
        return refuse(EINVAL);
    }
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_seen(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_seen(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
    MODE(flags)
    return open_seen(directory, path, flags | O_LARGEFILE, mode);
}

static ssize_t write_seen(int fd, const void *from, size_t bytes, off64_t offset) {
    char room[4096];
    enum act act = fd > 2 ? seen("write", 1, path_of(fd, room, sizeof room), "") : GO;
    if (act == FAIL)
        return -1;
    if (act == DIE)
        bytes /= 2;
    else if (fd > 2 && without("whole-writes"))
        bytes = bytes / 2 + 1;
    if (is_direct(fd) && (without("direct-write") || (bytes | (size_t)(offset > 0 ? offset : 0)) % 512)) {
        if (act != DIE)
            return refuse(EINVAL);
        bytes &= ~(size_t)511;
    }
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, from, bytes) : syscall(SYS_pwrite64, fd, from, bytes, offset);
    if (act == DIE)
        die();
    return done;
}

ssize_t write(int fd, const void *from, size_t bytes) { return write_seen(fd, from, bytes, -1); }

ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t offset) {
    return write_seen(fd, from, bytes, offset);
}

int fsync(int fd) {
    char room[4096];
    return fails("sync", 1, path_of(fd, room, sizeof room), "") ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    char room[4096];
    return fails("sync", 1, path_of(fd, room, sizeof room), "") ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int ftruncate64(int fd, off64_t bytes) {
    char room[4096];
    return fails("truncate", 1, path_of(fd, room, sizeof room), "") ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    char room[4096];
    if (fails("reserve", 1, path_of(fd, room, sizeof room), ""))
        return -1;
    return without("reserve") ? refuse(EOPNOTSUPP) : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

int mkdir(const char *path, mode_t mode) {
    /* Who makes a directory that is there has lost nothing when that fails. */
    return fails("mkdir", access(path, F_OK) != 0, path, "") ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

int rename(const char *from, const char *to) {
    return fails("rename", 1, from, to) ? -1 : (int)syscall(SYS_rename, from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    if (flags && without("rename-flags"))
        return refuse(EINVAL);
    if (fails(flags & RENAME_EXCHANGE ? "exchange" : "rename", 1, from, to))
        return -1;
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int unlink(const char *path) { return fails("remove", 0, path, "") ? -1 : (int)syscall(SYS_unlink, path); }

int unlinkat(int directory, const char *path, int flags) {
    char room[4096];
    const char *below = directory == AT_FDCWD ? "" : path_of(directory, room, sizeof room);
    return fails("remove", 0, path, below) ? -1 : (int)syscall(SYS_unlinkat, directory, path, flags);
}

int rmdir(const char *path) { return fails("remove", 0, path, "") ? -1 : (int)syscall(SYS_rmdir, path); }

int flock(int fd, int operation) {
    char room[4096];
    if (fails("lock", 0, path_of(fd, room, sizeof room), ""))
        return -1;
    return without("locks") ? refuse(ENOLCK) : (int)syscall(SYS_flock, fd, operation);
}

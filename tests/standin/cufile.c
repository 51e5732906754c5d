/* A stand-in for libcufile.so.0, for tests alone: its ABI over POSIX reads into host memory, with faults to order.
 * Never shipped, and never found by the search for the real one: tests load it by its path.
 *
 *   cc -shared -fPIC -O1 -Wall -Werror -pthread -Iffi [-D...] -o libcufile.so.0 tests/standin/cufile.c
 *
 * -DSTANDIN_VERSION=N   says it is version N (default 1200). It has the functions that N has: cuFileGetVersion from
 *                       1080, parameters from 1140, counters from 1150, in the longer layout from 1190.
 * -DSTANDIN_STATS_GROWN lays its counters out as no known version does.
 *
 * Control, by dlsym (each copy of the file that is loaded has a state of its own):
 *   int standin_fault(int kind, unsigned long at_call, long value)
 *       the fault happens at that call of its function, counted from 1 since the load or standin_reset, or at each
 *       if 0. Returns 0, or -1 if the kind is unknown or 64 are set. Kinds:
 *        1 short     read returns at most `value` bytes, all of them right
 *        2 errno     read returns -1 with errno `value`
 *        3 code      read returns -`value`: a code such as 5044, an unknown one, or a small number
 *        4 excess    read returns `value` more bytes than were asked for
 *        5 corrupt   read flips a bit of byte `value` (modulo the bytes read) and says nothing
 *        6 seeded    `at_call` is one in how many reads: it is cut short, or fails with EINTR or EAGAIN, as the
 *                    seed `value` and the number of the call decide. Nothing is lost.
 *       10 open      driver open returns code `value`, with `value` / 10000 as CUDA's code if over 10000
 *       11 hang      driver open never returns
 *       12 handle    handle registration returns `value` likewise
 *       13 buffer    buffer registration returns `value` likewise
 *       14 stats     the call for counters returns `value` likewise
 *       15 parameter setting one returns `value` likewise, and sets nothing
 *   void standin_reset(void)                 no faults, all counts 0
 *   unsigned long standin_calls(int kind)    calls so far of the function that `kind` is a fault of: 1 read, 10
 *                                            open, 12 handle, 13 buffer, 14 stats, 15 parameter
 *   long standin_live(int kind)              how many are open or registered now: 10, 12, 13
 *   int standin_path(int path)               which counter reads are put down to: 0 posix, 1 nvfs, 2 p2p
 *   void standin_nvfs(unsigned major, unsigned minor)      what the properties say; 0, 0 at first
 *
 * For programs that are run: STANDIN_FAULTS="kind:at:value,..." and STANDIN_PATH=0|1|2, read at the load.
 * Each failure is logged as cuFile does, to CUFILE_LOGFILE_PATH, or cufile.log where the driver was opened.
 *
 * Like the real one it refuses reads past a registered buffer, closes nothing that it did not open, and reads
 * through a descriptor of its own without O_DIRECT, so that alignment is no matter. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cufile.h"

#ifndef STANDIN_VERSION
#define STANDIN_VERSION 1200
#endif

enum { SHORT = 1, ERRNO, CODE, EXCESS, CORRUPT, SEEDED, OPEN = 10, HANG, HANDLE, BUFFER, STATS, PARAMETER, KINDS };
enum { PARAMETERS = 16 };
enum { MAX_FAULTS = 64, MAX_BUFFERS = 4096 };

struct fault {
  int kind;
  unsigned long at;
  long value;
};
struct file {
  int fd;
};
struct buffer {
  const char *base;
  size_t bytes;
};

/* One lock for all of it; never held over a read. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault faults[MAX_FAULTS];
static int fault_count;
static unsigned long calls[KINDS];
static long live[KINDS];
static struct buffer buffers[MAX_BUFFERS];
static int path, counting;
static unsigned nvfs_major, nvfs_minor;
static struct {
  uint64_t ok, failed, bytes, by_path[3];
} reads;
static FILE *log_file;
static const size_t default_sizes[PARAMETERS] = {[CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB] = 16384,
                           [CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB] = 131072,
                           [CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB] = 1024,
                           [CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB] = 33554432};
static const _Bool default_bools[PARAMETERS] = {[CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE] = 1};
static size_t sizes[PARAMETERS];
static _Bool bools[PARAMETERS];
/* Set since the last opening. */
static _Bool size_is_set[PARAMETERS], bool_is_set[PARAMETERS];

int standin_fault(int kind, unsigned long at_call, long value) {
  int known = (kind >= SHORT && kind <= SEEDED) || (kind >= OPEN && kind < KINDS);
  pthread_mutex_lock(&lock);
  int room = known && fault_count < MAX_FAULTS;
  if (room) faults[fault_count++] = (struct fault){kind, at_call, value};
  pthread_mutex_unlock(&lock);
  return room ? 0 : -1;
}

void standin_reset(void) {
  pthread_mutex_lock(&lock);
  fault_count = 0;
  memset(calls, 0, sizeof calls);
  pthread_mutex_unlock(&lock);
}

unsigned long standin_calls(int kind) {
  pthread_mutex_lock(&lock);
  unsigned long count = kind > 0 && kind < KINDS ? calls[kind] : 0;
  pthread_mutex_unlock(&lock);
  return count;
}

long standin_live(int kind) {
  pthread_mutex_lock(&lock);
  long count = kind > 0 && kind < KINDS ? live[kind] : 0;
  pthread_mutex_unlock(&lock);
  return count;
}

int standin_path(int new_path) {
  if (new_path < 0 || new_path > 2) return -1;
  pthread_mutex_lock(&lock);
  path = new_path;
  pthread_mutex_unlock(&lock);
  return 0;
}

void standin_nvfs(unsigned major, unsigned minor) {
  pthread_mutex_lock(&lock);
  nvfs_major = major, nvfs_minor = minor;
  pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void from_environment(void) {
  const char *text = getenv("STANDIN_FAULTS");
  for (int used = 0, kind; text && *text; text += used, text += *text == ',') {
    unsigned long at;
    long value;
    if (sscanf(text, "%d:%lu:%ld%n", &kind, &at, &value, &used) != 3 || standin_fault(kind, at, value) != 0) {
      fprintf(stderr, "stand-in: bad STANDIN_FAULTS at \"%s\"\n", text);
      abort();
    }
  }
  if ((text = getenv("STANDIN_PATH")) && standin_path(atoi(text)) != 0) abort();
}

static void say(const char *level, const char *format, ...) {
  if (!log_file) return;
  struct timespec now;
  char time[32];
  clock_gettime(CLOCK_REALTIME, &now);
  strftime(time, sizeof time, "%d-%m-%Y %H:%M:%S", gmtime(&(time_t){now.tv_sec}));
  fprintf(log_file, " %s:%ld [pid=%d tid=%ld] %-6s  standin:1 ", time, now.tv_nsec / 1000000, getpid(),
          syscall(SYS_gettid), level);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(log_file, format, arguments);
  va_end(arguments);
  fputc('\n', log_file);
  fflush(log_file);
}

/* The number of this call of a function, and the faults that happen at it, by kind. */
struct order {
  unsigned long call;
  struct fault at[KINDS];
};

static struct order count(int function) {
  struct order order = {0};
  pthread_mutex_lock(&lock);
  order.call = ++calls[function];
  for (int i = 0; i < fault_count; i++)
    if (faults[i].kind == SEEDED || faults[i].at == 0 || faults[i].at == order.call) order.at[faults[i].kind] = faults[i];
  pthread_mutex_unlock(&lock);
  return order;
}

static CUfileError_t status(const char *call, long value) {
  CUfileError_t error = {(int)(value > 10000 ? value % 10000 : value), (int)(value > 10000 ? value / 10000 : 0)};
  pthread_mutex_lock(&lock);
  if (error.err) say("ERROR", "%s refused with %d", call, error.err);
  pthread_mutex_unlock(&lock);
  return error;
}

static void add(int kind, long change) {
  pthread_mutex_lock(&lock);
  live[kind] += change;
  pthread_mutex_unlock(&lock);
}

/* As the real one, 1.14 to 1.20: an opening, also one that fails, uses up what was set for it. */
static void use_parameters(void) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < PARAMETERS; i++) {
    if (!size_is_set[i]) sizes[i] = default_sizes[i];
    if (!bool_is_set[i]) bools[i] = default_bools[i];
    size_is_set[i] = bool_is_set[i] = 0;
  }
  pthread_mutex_unlock(&lock);
}

CUfileError_t cuFileDriverOpen(void) {
  struct order order = count(OPEN);
  if (!standin_live(OPEN)) use_parameters();
  pthread_mutex_lock(&lock);
  const char *log_path = getenv("CUFILE_LOGFILE_PATH");
  if (!log_file) log_file = fopen(log_path ? log_path : "cufile.log", "a");
  say("NOTICE", "running in compatible mode");
  pthread_mutex_unlock(&lock);
  while (order.at[HANG].kind) pause();
  if (order.at[OPEN].kind) return status("cuFileDriverOpen", order.at[OPEN].value);
  if (standin_live(OPEN)) return status("cuFileDriverOpen", 5026);
  add(OPEN, 1);
  return status("cuFileDriverOpen", 0);
}

CUfileError_t cuFileDriverClose_v2(void) {
  if (!standin_live(OPEN)) return status("cuFileDriverClose", 5001);
  add(OPEN, -1);
  return status("cuFileDriverClose", 0);
}

CUfileError_t cuFileDriverGetProperties(CUfileDrvProps_t *props) {
  if (!standin_live(OPEN)) return status("cuFileDriverGetProperties", 5001);
  memset(props, 0, sizeof *props);
  pthread_mutex_lock(&lock);
  props->nvfs.major_version = nvfs_major;
  props->nvfs.minor_version = nvfs_minor;
  props->nvfs.dstatusflags = nvfs_major ? 1u << 4 : 0;
  props->nvfs.dcontrolflags = (unsigned)bools[CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE] << CU_FILE_ALLOW_COMPAT_MODE;
  props->nvfs.poll_thresh_size = 4;
  props->nvfs.max_direct_io_size = sizes[CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB];
  props->max_device_cache_size = (unsigned)sizes[CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB];
  props->per_buffer_cache_size = (unsigned)sizes[CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB];
  props->max_device_pinned_mem_size = (unsigned)sizes[CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB];
  pthread_mutex_unlock(&lock);
  return status("cuFileDriverGetProperties", 0);
}

CUfileError_t cuFileHandleRegister(CUfileHandle_t *fh, CUfileDescr_t *descr) {
  struct order order = count(HANDLE);
  char name[64];
  if (order.at[HANDLE].kind) return status("cuFileHandleRegister", order.at[HANDLE].value);
  if (!standin_live(OPEN)) return status("cuFileHandleRegister", 5001);
  if (descr->type != CU_FILE_HANDLE_TYPE_OPAQUE_FD) return status("cuFileHandleRegister", 5022);
  snprintf(name, sizeof name, "/proc/self/fd/%d", descr->handle.fd);
  struct file *file = malloc(sizeof *file);
  if (!file || (file->fd = open(name, O_RDONLY | O_CLOEXEC)) < 0) {
    free(file);
    return status("cuFileHandleRegister", 5031);
  }
  *fh = file;
  add(HANDLE, 1);
  return status("cuFileHandleRegister", 0);
}

void cuFileHandleDeregister(CUfileHandle_t fh) {
  struct file *file = fh;
  close(file->fd);
  free(file);
  add(HANDLE, -1);
}

static struct buffer *find_buffer(const void *base) {
  for (int i = 0; i < MAX_BUFFERS; i++)
    if (buffers[i].base == base) return &buffers[i];
  return NULL;
}

CUfileError_t cuFileBufRegister(const void *base, size_t length, int flags) {
  struct order order = count(BUFFER);
  if (order.at[BUFFER].kind) return status("cuFileBufRegister", order.at[BUFFER].value);
  if (!standin_live(OPEN)) return status("cuFileBufRegister", 5001);
  if (!base || !length || flags) return status("cuFileBufRegister", 5022);
  pthread_mutex_lock(&lock);
  struct buffer *known = find_buffer(base), *free_one = find_buffer(NULL);
  if (!known && free_one) {
    *free_one = (struct buffer){base, length};
    live[BUFFER]++;
  }
  pthread_mutex_unlock(&lock);
  return status("cuFileBufRegister", known ? 5023 : free_one ? 0 : 5043);
}

CUfileError_t cuFileBufDeregister(const void *base) {
  pthread_mutex_lock(&lock);
  struct buffer *known = base ? find_buffer(base) : NULL;
  if (known) {
    known->base = NULL;
    live[BUFFER]--;
  }
  pthread_mutex_unlock(&lock);
  return status("cuFileBufDeregister", known ? 0 : 5024);
}

/* splitmix64 */
static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/* Turns a seeded fault into one of the others. */
static void draw(struct order *order, size_t size) {
  struct fault seeded = order->at[SEEDED];
  uint64_t draw = mix((uint64_t)seeded.value * 0x100000001b3u + order->call);
  if (!seeded.kind || draw % (seeded.at ? seeded.at : 1)) return;
  draw = mix(draw);
  if (draw % 4 < 2)
    order->at[SHORT] = (struct fault){SHORT, 0, (long)(size ? 1 + mix(draw) % size : 0)};
  else
    order->at[ERRNO] = (struct fault){ERRNO, 0, draw % 4 == 2 ? EINTR : EAGAIN};
}

static ssize_t failed_read(ssize_t result, int error) {
  pthread_mutex_lock(&lock);
  if (counting) reads.failed++;
  if (error != EINTR && error != EAGAIN) say("ERROR", "read failed with %ld, errno %d", (long)result, error);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

ssize_t cuFileRead(CUfileHandle_t fh, void *base, size_t size, off_t file_offset, off_t base_offset) {
  struct order order = count(SHORT);
  draw(&order, size);
  if (order.at[ERRNO].kind) return failed_read(-1, (int)order.at[ERRNO].value);
  if (order.at[CODE].kind) return failed_read(-order.at[CODE].value, 0);
  pthread_mutex_lock(&lock);
  struct buffer *known = base ? find_buffer(base) : NULL;
  int outside = known && (base_offset < 0 || (size_t)base_offset + size > known->bytes);
  pthread_mutex_unlock(&lock);
  if (!standin_live(OPEN)) return failed_read(-5001, 0);
  if (outside) return failed_read(-5017, 0);

  size_t wanted = size;
  if (order.at[SHORT].kind && (size_t)order.at[SHORT].value < wanted) wanted = (size_t)order.at[SHORT].value;
  char *to = (char *)base + base_offset;
  ssize_t done = pread(((struct file *)fh)->fd, to, wanted, file_offset);
  if (done < 0) return failed_read(-1, errno);
  if (order.at[CORRUPT].kind && done > 0) to[order.at[CORRUPT].value % done] ^= 1;
  pthread_mutex_lock(&lock);
  if (counting) {
    reads.ok++;
    reads.bytes += (uint64_t)done;
    reads.by_path[path]++;
  }
  pthread_mutex_unlock(&lock);
  return order.at[EXCESS].kind ? (ssize_t)size + order.at[EXCESS].value : done;
}

#if STANDIN_VERSION >= 1080
CUfileError_t cuFileGetVersion(int *version) {
  *version = STANDIN_VERSION;
  return status("cuFileGetVersion", 0);
}
#endif

#if STANDIN_VERSION >= 1140
CUfileError_t cuFileSetParameterSizeT(CUFileSizeTConfigParameter_t param, size_t value) {
  struct order order = count(PARAMETER);
  if (order.at[PARAMETER].kind) return status("cuFileSetParameterSizeT", order.at[PARAMETER].value);
  if (standin_live(OPEN)) return status("cuFileSetParameterSizeT", 5026);
  if (param >= PARAMETERS) return status("cuFileSetParameterSizeT", 5022);
  sizes[param] = value;
  size_is_set[param] = 1;
  return status("cuFileSetParameterSizeT", 0);
}

CUfileError_t cuFileSetParameterBool(CUFileBoolConfigParameter_t param, _Bool value) {
  struct order order = count(PARAMETER);
  if (order.at[PARAMETER].kind) return status("cuFileSetParameterBool", order.at[PARAMETER].value);
  if (standin_live(OPEN)) return status("cuFileSetParameterBool", 5026);
  if (param >= PARAMETERS) return status("cuFileSetParameterBool", 5022);
  bools[param] = value;
  bool_is_set[param] = 1;
  return status("cuFileSetParameterBool", 0);
}

CUfileError_t cuFileGetParameterSizeT(CUFileSizeTConfigParameter_t param, size_t *value) {
  *value = param < PARAMETERS ? sizes[param] : 0;
  return status("cuFileGetParameterSizeT", param < PARAMETERS ? 0 : 5022);
}

CUfileError_t cuFileGetParameterBool(CUFileBoolConfigParameter_t param, _Bool *value) {
  *value = param < PARAMETERS && bools[param];
  return status("cuFileGetParameterBool", param < PARAMETERS ? 0 : 5022);
}

CUfileError_t cuFileGetParameterString(CUFileStringConfigParameter_t param, char *text, int bytes) {
  snprintf(text, (size_t)bytes, "%s", param == CUFILE_PARAM_LOGGING_LEVEL ? "ERROR" : "");
  return status("cuFileGetParameterString", 0);
}
#endif

#if STANDIN_VERSION >= 1150
CUfileError_t cuFileSetStatsLevel(int level) { return status("cuFileSetStatsLevel", level > 3 ? 5022 : 0); }

static CUfileError_t set_counting(const char *call, int on) {
  if (!standin_live(OPEN)) return status(call, 5001);
  pthread_mutex_lock(&lock);
  counting = on;
  pthread_mutex_unlock(&lock);
  return status(call, 0);
}
CUfileError_t cuFileStatsStart(void) { return set_counting("cuFileStatsStart", 1); }
CUfileError_t cuFileStatsStop(void) { return set_counting("cuFileStatsStop", 0); }

CUfileError_t cuFileStatsReset(void) {
  pthread_mutex_lock(&lock);
  memset(&reads, 0, sizeof reads);
  pthread_mutex_unlock(&lock);
  return status("cuFileStatsReset", 0);
}

#ifdef STANDIN_STATS_GROWN
typedef struct {
  uint64_t detailed[150];
  uint32_t num_gpus;
  CUfilePerGpuStats_t per_gpu_stats[16];
} layout;
#elif STANDIN_VERSION >= 1190
typedef CUfileStatsLevel3_v1190_t layout;
#else
typedef CUfileStatsLevel3_t layout;
#endif

/* One GPU, and like the real one nothing is written behind it. */
CUfileError_t cuFileGetStatsL3(CUfileStatsLevel3_t *stats) {
  struct order order = count(STATS);
  if (order.at[STATS].kind) return status("cuFileGetStatsL3", order.at[STATS].value);
  layout *out = (layout *)stats;
  CUfilePerGpuStats_t *gpu = &out->per_gpu_stats[0];
  pthread_mutex_lock(&lock);
  memset(out->detailed, 0, sizeof out->detailed);
  memset(gpu, 0, sizeof *gpu);
  out->detailed[0] = reads.ok;
  out->detailed[1] = reads.failed;
  out->num_gpus = 1;
  memcpy(gpu->uuid, "stand-in GPU 0  ", 16);
  gpu->read_bytes = reads.bytes;
  gpu->n_total_reads = reads.ok;
  gpu->n_posix_reads = reads.by_path[0];
  gpu->n_nvfs_reads = reads.by_path[1];
  gpu->n_p2p_reads = reads.by_path[2];
  gpu->n_reads_err = reads.failed;
  pthread_mutex_unlock(&lock);
  return status("cuFileGetStatsL3", 0);
}
#endif

/* The part of cuFile's binary interface that sllm-gds uses, written here from facts in NVIDIA's API reference.
 * build.rs makes the Rust bindings from it; ffi/bindings.rs is the copy for machines without libclang.
 * tests/cufile.rs holds every size, offset, constant and prototype against NVIDIA's own header.
 *
 * Codes and parameters are plain integers: later libraries return values that no list here can know.
 * With SLLM_GDS_PROTOTYPES_ONLY set, the types are taken from a header included before this one. */

#ifndef SLLM_GDS_PROTOTYPES_ONLY

typedef __SIZE_TYPE__ size_t;
typedef long ssize_t;
typedef long off_t;
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;

/* What most calls return: 0 or a code above 5000, and CUDA's own code where CUDA failed (err 5011). */
typedef struct {
  int err;
  int cu_err;
} CUfileError_t;

/* A registered file. */
typedef void *CUfileHandle_t;

enum {
  CU_FILE_HANDLE_TYPE_OPAQUE_FD = 1,
};

/* A file to register. */
typedef struct {
  unsigned int type;
  union {
    int fd;
    void *handle;
  } handle;
  const void *fs_ops; /* null: an ordinary file system */
} CUfileDescr_t;

/* What the open driver is set to. Sizes are KiB. */
typedef struct {
  struct {
    unsigned int major_version; /* 0.0: nvidia-fs is not loaded */
    unsigned int minor_version;
    size_t poll_thresh_size;
    size_t max_direct_io_size;
    unsigned int dstatusflags;  /* file systems with a direct path, a bit each */
    unsigned int dcontrolflags; /* modes that are on, a bit each */
  } nvfs;
  unsigned int fflags; /* features, a bit each */
  unsigned int max_device_cache_size;
  unsigned int per_buffer_cache_size;
  unsigned int max_device_pinned_mem_size;
  unsigned int max_batch_io_size;
  unsigned int max_batch_io_timeout_msecs;
} CUfileDrvProps_t;

/* Bits of dcontrolflags. */
enum {
  CU_FILE_USE_POLL_MODE = 0,
  CU_FILE_ALLOW_COMPAT_MODE = 1,
};

/* Parameters of 1.14 (CUDA 12.9) and later. */
typedef unsigned int CUFileSizeTConfigParameter_t;
enum {
  CUFILE_PARAM_PROFILE_STATS = 0,
  CUFILE_PARAM_EXECUTION_MAX_IO_QUEUE_DEPTH = 1,
  CUFILE_PARAM_EXECUTION_MAX_IO_THREADS = 2,
  CUFILE_PARAM_EXECUTION_MIN_IO_THRESHOLD_SIZE_KB = 3,
  CUFILE_PARAM_EXECUTION_MAX_REQUEST_PARALLELISM = 4,
  CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB = 5,
  CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB = 6,
  CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB = 7,
  CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB = 8,
};

typedef unsigned int CUFileBoolConfigParameter_t;
enum {
  CUFILE_PARAM_PROPERTIES_USE_POLL_MODE = 0,
  CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE = 1,
  CUFILE_PARAM_FORCE_COMPAT_MODE = 2,
  CUFILE_PARAM_EXECUTION_PARALLEL_IO = 4,
  CUFILE_PARAM_PROPERTIES_ALLOW_SYSTEM_MEMORY = 6,
  CUFILE_PARAM_USE_PCIP2PDMA = 7,
  CUFILE_PARAM_PREFER_IO_URING = 8,
  CUFILE_PARAM_FORCE_ODIRECT_MODE = 9,
};

typedef unsigned int CUFileStringConfigParameter_t;
enum {
  CUFILE_PARAM_LOGGING_LEVEL = 0,
  CUFILE_PARAM_LOG_DIR = 2,
};

/* Counters of one GPU, of 1.15 (CUDA 13.0) and later. */
typedef struct {
  uint8_t uuid[16];
  uint64_t read_bytes;
  uint64_t read_bw_bytes_per_sec;
  uint64_t read_utilization;
  uint64_t read_duration_us;
  uint64_t n_total_reads;
  uint64_t n_p2p_reads;   /* through the kernel's PCI P2PDMA */
  uint64_t n_nvfs_reads;  /* through nvidia-fs */
  uint64_t n_posix_reads; /* compatibility mode: read, then copied */
  uint64_t n_unaligned_reads;
  uint64_t n_dr_reads; /* over another GPU */
  uint64_t n_sparse_regions;
  uint64_t n_inline_regions;
  uint64_t n_reads_err;
  uint64_t writes_bytes;
  uint64_t write_bw_bytes_per_sec;
  uint64_t write_utilization;
  uint64_t write_duration_us;
  uint64_t n_total_writes;
  uint64_t n_p2p_writes;
  uint64_t n_nvfs_writes;
  uint64_t n_posix_writes;
  uint64_t n_unaligned_writes;
  uint64_t n_dr_writes;
  uint64_t n_writes_err;
  uint64_t n_mmap;
  uint64_t n_mmap_ok;
  uint64_t n_mmap_err;
  uint64_t n_mmap_free;
  uint64_t reg_bytes;
} CUfilePerGpuStats_t;

/* Level 3: the whole process's counters, then each GPU's. The first part is taken as words, of which the first
 * two are reads that succeeded and reads that failed. */
typedef struct {
  uint64_t detailed[128];
  uint32_t num_gpus;
  CUfilePerGpuStats_t per_gpu_stats[16];
} CUfileStatsLevel3_t;

/* The same from 1.19 on, where vectored reads and writes are counted too. */
typedef struct {
  uint64_t detailed[142];
  uint32_t num_gpus;
  CUfilePerGpuStats_t per_gpu_stats[16];
} CUfileStatsLevel3_v1190_t;

#endif /* SLLM_GDS_PROTOTYPES_ONLY */

CUfileError_t cuFileDriverOpen(void);
CUfileError_t cuFileDriverClose_v2(void);
CUfileError_t cuFileDriverGetProperties(CUfileDrvProps_t *props);

CUfileError_t cuFileHandleRegister(CUfileHandle_t *fh, CUfileDescr_t *descr);
void cuFileHandleDeregister(CUfileHandle_t fh);
CUfileError_t cuFileBufRegister(const void *base, size_t length, int flags);
CUfileError_t cuFileBufDeregister(const void *base);

/* The bytes read, which may be fewer than asked; -1 with errno; or a code's negative. */
ssize_t cuFileRead(CUfileHandle_t fh, void *base, size_t size, off_t file_offset, off_t base_offset);

/* 1000 * major + 10 * minor; since 1.8 (CUDA 12.3). */
CUfileError_t cuFileGetVersion(int *version);

/* Since 1.14 (CUDA 12.9). */
CUfileError_t cuFileSetParameterSizeT(CUFileSizeTConfigParameter_t param, size_t value);
CUfileError_t cuFileSetParameterBool(CUFileBoolConfigParameter_t param, _Bool value);
CUfileError_t cuFileGetParameterSizeT(CUFileSizeTConfigParameter_t param, size_t *value);
CUfileError_t cuFileGetParameterBool(CUFileBoolConfigParameter_t param, _Bool *value);
CUfileError_t cuFileGetParameterString(CUFileStringConfigParameter_t param, char *text, int bytes);

/* Since 1.15 (CUDA 13.0). */
CUfileError_t cuFileSetStatsLevel(int level);
CUfileError_t cuFileStatsStart(void);
CUfileError_t cuFileStatsStop(void);
CUfileError_t cuFileStatsReset(void);
CUfileError_t cuFileGetStatsL3(CUfileStatsLevel3_t *stats);

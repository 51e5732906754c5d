//! cuFile's codes: name, likely cause and remedy, in words of our own.

/// What is known about one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub number: i32,
    /// The constant's name in NVIDIA's API.
    pub name: &'static str,
    pub cause: &'static str,
    pub remedy: &'static str,
}

/// What is known about `number`; later libraries return codes that no table has.
pub fn code(number: i32) -> Option<&'static Code> {
    CODES.iter().find(|code| code.number == number)
}

const NVFS: &str = "load nvidia-fs (modprobe nvidia_fs), or allow compatibility mode";
const NVFS_UPDATE: &str = "install the nvidia-fs that belongs to this CUDA version and reload it";
const CONFIG: &str = "check the settings in /etc/cufile.json or the file CUFILE_ENV_PATH_JSON names";
const BUG: &str = "please report it, with the log's lines";
const LOG: &str = "read the log's lines; CUFILE_LOGGING_LEVEL=TRACE says more";
const RING: &str = "load with the engine pinned, which needs no cuFile";

const fn row(number: i32, name: &'static str, cause: &'static str, remedy: &'static str) -> Code {
    Code { number, name, cause, remedy }
}

#[rustfmt::skip] // a table
pub const CODES: &[Code] = &[
    row(5001, "CU_FILE_DRIVER_NOT_INITIALIZED", "the driver is not open, or nvidia-fs is not loaded and compatibility mode is off", NVFS),
    row(5002, "CU_FILE_DRIVER_INVALID_PROPS", "a setting has a value the driver does not take", CONFIG),
    row(5003, "CU_FILE_DRIVER_UNSUPPORTED_LIMIT", "a size is outside the range the driver takes", CONFIG),
    row(5004, "CU_FILE_DRIVER_VERSION_MISMATCH", "nvidia-fs and libcufile are of versions that do not fit", NVFS_UPDATE),
    row(5005, "CU_FILE_DRIVER_VERSION_READ_ERROR", "the version of nvidia-fs cannot be read", NVFS_UPDATE),
    row(5006, "CU_FILE_DRIVER_CLOSING", "the driver is being closed", BUG),
    row(5007, "CU_FILE_PLATFORM_NOT_SUPPORTED", "this machine or GPU mode cannot do GPUDirect Storage", RING),
    row(5008, "CU_FILE_IO_NOT_SUPPORTED", "this file system cannot do GPUDirect Storage", "use ext4 (data=ordered) or xfs on NVMe, or allow compatibility mode"),
    row(5009, "CU_FILE_DEVICE_NOT_SUPPORTED", "this GPU cannot do GPUDirect Storage", RING),
    row(5010, "CU_FILE_NVFS_DRIVER_ERROR", "nvidia-fs refused a request", "read the kernel's log (dmesg) for nvidia-fs"),
    row(5011, "CU_FILE_CUDA_DRIVER_ERROR", "CUDA failed, or there is no CUDA driver", "run nvidia-smi; the CUDA code, if any, says more"),
    row(5012, "CU_FILE_CUDA_POINTER_INVALID", "the address is not memory that CUDA knows", BUG),
    row(5013, "CU_FILE_CUDA_MEMORY_TYPE_INVALID", "memory of this kind cannot be a destination", BUG),
    row(5014, "CU_FILE_CUDA_POINTER_RANGE_ERROR", "the range ends past its allocation", BUG),
    row(5015, "CU_FILE_CUDA_CONTEXT_MISMATCH", "the memory belongs to another CUDA context", BUG),
    row(5016, "CU_FILE_INVALID_MAPPING_SIZE", "more memory than may be pinned", "register less at a time, or raise properties.max_device_pinned_mem_size_kb"),
    row(5017, "CU_FILE_INVALID_MAPPING_RANGE", "the range ends past what was registered", BUG),
    row(5018, "CU_FILE_INVALID_FILE_TYPE", "not a regular file", "give a regular file on a local or supported network file system"),
    row(5019, "CU_FILE_INVALID_FILE_OPEN_FLAG", "the file was opened with flags that cuFile does not take", BUG),
    row(5020, "CU_FILE_DIO_NOT_SET", "the file was not opened with O_DIRECT, which this library wants", "use a file system that takes O_DIRECT"),
    row(5022, "CU_FILE_INVALID_VALUE", "an argument is invalid", BUG),
    row(5023, "CU_FILE_MEMORY_ALREADY_REGISTERED", "the memory is registered already", BUG),
    row(5024, "CU_FILE_MEMORY_NOT_REGISTERED", "the memory is not registered", BUG),
    row(5025, "CU_FILE_PERMISSION_DENIED", "no right to the driver's device or to the file", "check the rights of /dev/nvidia-fs* and of the file; a container must be given the devices"),
    row(5026, "CU_FILE_DRIVER_ALREADY_OPEN", "the driver is open already", "set parameters before the driver is opened"),
    row(5027, "CU_FILE_HANDLE_NOT_REGISTERED", "cuFile could not identify the file's block device, most often because the udev database has no entry for it: /run/udev/data/b<major>:<minor> with E:ID_FS_USAGE=filesystem", "mount /run/udev into the container (docker run -v /run/udev:/run/udev:ro), or run a udev daemon on the host"),
    row(5028, "CU_FILE_HANDLE_ALREADY_REGISTERED", "the file is registered already", BUG),
    row(5029, "CU_FILE_DEVICE_NOT_FOUND", "no such GPU", "run nvidia-smi -L, and check CUDA_VISIBLE_DEVICES"),
    row(5030, "CU_FILE_INTERNAL_ERROR", "an error inside cuFile", LOG),
    row(5031, "CU_FILE_GETNEWFD_FAILED", "cuFile could not open the file a second time", "raise the limit of open files (ulimit -n), and check that /proc is mounted"),
    row(5033, "CU_FILE_NVFS_SETUP_ERROR", "the driver could not be set up: no CUDA driver, no GPU, or nvidia-fs failed", "run nvidia-smi; then check nvidia-fs in dmesg"),
    row(5034, "CU_FILE_IO_DISABLED", "the configuration turns GPUDirect Storage off for this file", CONFIG),
    row(5035, "CU_FILE_BATCH_SUBMIT_FAILED", "a batch could not be submitted", LOG),
    row(5036, "CU_FILE_GPU_MEMORY_PINNING_FAILED", "GPU memory could not be pinned; BAR1 may be full", "close other GPU programs, or register less at a time; nvidia-smi -q -d MEMORY shows BAR1"),
    row(5037, "CU_FILE_BATCH_FULL", "the batch queue is full", LOG),
    row(5038, "CU_FILE_ASYNC_NOT_SUPPORTED", "reads on a stream are not supported here", RING),
    row(5039, "CU_FILE_INTERNAL_BATCH_SETUP_ERROR", "a batch could not be set up", LOG),
    row(5040, "CU_FILE_INTERNAL_BATCH_SUBMIT_ERROR", "a batch could not be submitted", LOG),
    row(5041, "CU_FILE_INTERNAL_BATCH_GETSTATUS_ERROR", "a batch's status could not be read", LOG),
    row(5042, "CU_FILE_INTERNAL_BATCH_CANCEL_ERROR", "a batch could not be cancelled", LOG),
    row(5043, "CU_FILE_NOMEM_ERROR", "cuFile is out of memory", "free host memory, or lower max_device_cache_size_kb"),
    row(5044, "CU_FILE_IO_ERROR", "the read failed below cuFile", "read the kernel's log (dmesg) for errors of the drive or file system"),
    row(5045, "CU_FILE_INTERNAL_BUF_REGISTER_ERROR", "the memory could not be registered", "register less at a time; nvidia-smi -q -d MEMORY shows BAR1"),
    row(5046, "CU_FILE_HASH_OPR_ERROR", "an error inside cuFile", LOG),
    row(5047, "CU_FILE_INVALID_CONTEXT_ERROR", "no valid CUDA context", BUG),
    row(5048, "CU_FILE_NVFS_INTERNAL_DRIVER_ERROR", "an error inside nvidia-fs", "read the kernel's log (dmesg) for nvidia-fs"),
    row(5049, "CU_FILE_BATCH_NOCOMPAT_ERROR", "batches need compatibility mode here, and it is off", CONFIG),
];

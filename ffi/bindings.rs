pub type off_t = ::std::os::raw::c_long;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileError_t {
    pub err: ::std::os::raw::c_int,
    pub cu_err: ::std::os::raw::c_int,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CUfileError_t"][::std::mem::size_of::<CUfileError_t>() - 8usize];
    ["Alignment of CUfileError_t"][::std::mem::align_of::<CUfileError_t>() - 4usize];
    [
        "Offset of field: CUfileError_t::err",
    ][::std::mem::offset_of!(CUfileError_t, err) - 0usize];
    [
        "Offset of field: CUfileError_t::cu_err",
    ][::std::mem::offset_of!(CUfileError_t, cu_err) - 4usize];
};
pub type CUfileHandle_t = *mut ::std::os::raw::c_void;
pub const CU_FILE_HANDLE_TYPE_OPAQUE_FD: _bindgen_ty_1 = 1;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUfileDescr_t {
    pub type_: ::std::os::raw::c_uint,
    pub handle: CUfileDescr_t__bindgen_ty_1,
    pub fs_ops: *const ::std::os::raw::c_void,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union CUfileDescr_t__bindgen_ty_1 {
    pub fd: ::std::os::raw::c_int,
    pub handle: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of CUfileDescr_t__bindgen_ty_1",
    ][::std::mem::size_of::<CUfileDescr_t__bindgen_ty_1>() - 8usize];
    [
        "Alignment of CUfileDescr_t__bindgen_ty_1",
    ][::std::mem::align_of::<CUfileDescr_t__bindgen_ty_1>() - 8usize];
    [
        "Offset of field: CUfileDescr_t__bindgen_ty_1::fd",
    ][::std::mem::offset_of!(CUfileDescr_t__bindgen_ty_1, fd) - 0usize];
    [
        "Offset of field: CUfileDescr_t__bindgen_ty_1::handle",
    ][::std::mem::offset_of!(CUfileDescr_t__bindgen_ty_1, handle) - 0usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CUfileDescr_t"][::std::mem::size_of::<CUfileDescr_t>() - 24usize];
    ["Alignment of CUfileDescr_t"][::std::mem::align_of::<CUfileDescr_t>() - 8usize];
    [
        "Offset of field: CUfileDescr_t::type_",
    ][::std::mem::offset_of!(CUfileDescr_t, type_) - 0usize];
    [
        "Offset of field: CUfileDescr_t::handle",
    ][::std::mem::offset_of!(CUfileDescr_t, handle) - 8usize];
    [
        "Offset of field: CUfileDescr_t::fs_ops",
    ][::std::mem::offset_of!(CUfileDescr_t, fs_ops) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileDrvProps_t {
    pub nvfs: CUfileDrvProps_t__bindgen_ty_1,
    pub fflags: ::std::os::raw::c_uint,
    pub max_device_cache_size: ::std::os::raw::c_uint,
    pub per_buffer_cache_size: ::std::os::raw::c_uint,
    pub max_device_pinned_mem_size: ::std::os::raw::c_uint,
    pub max_batch_io_size: ::std::os::raw::c_uint,
    pub max_batch_io_timeout_msecs: ::std::os::raw::c_uint,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileDrvProps_t__bindgen_ty_1 {
    pub major_version: ::std::os::raw::c_uint,
    pub minor_version: ::std::os::raw::c_uint,
    pub poll_thresh_size: usize,
    pub max_direct_io_size: usize,
    pub dstatusflags: ::std::os::raw::c_uint,
    pub dcontrolflags: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of CUfileDrvProps_t__bindgen_ty_1",
    ][::std::mem::size_of::<CUfileDrvProps_t__bindgen_ty_1>() - 32usize];
    [
        "Alignment of CUfileDrvProps_t__bindgen_ty_1",
    ][::std::mem::align_of::<CUfileDrvProps_t__bindgen_ty_1>() - 8usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::major_version",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, major_version) - 0usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::minor_version",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, minor_version) - 4usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::poll_thresh_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, poll_thresh_size) - 8usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::max_direct_io_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, max_direct_io_size)
        - 16usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::dstatusflags",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, dstatusflags) - 24usize];
    [
        "Offset of field: CUfileDrvProps_t__bindgen_ty_1::dcontrolflags",
    ][::std::mem::offset_of!(CUfileDrvProps_t__bindgen_ty_1, dcontrolflags) - 28usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CUfileDrvProps_t"][::std::mem::size_of::<CUfileDrvProps_t>() - 56usize];
    [
        "Alignment of CUfileDrvProps_t",
    ][::std::mem::align_of::<CUfileDrvProps_t>() - 8usize];
    [
        "Offset of field: CUfileDrvProps_t::nvfs",
    ][::std::mem::offset_of!(CUfileDrvProps_t, nvfs) - 0usize];
    [
        "Offset of field: CUfileDrvProps_t::fflags",
    ][::std::mem::offset_of!(CUfileDrvProps_t, fflags) - 32usize];
    [
        "Offset of field: CUfileDrvProps_t::max_device_cache_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t, max_device_cache_size) - 36usize];
    [
        "Offset of field: CUfileDrvProps_t::per_buffer_cache_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t, per_buffer_cache_size) - 40usize];
    [
        "Offset of field: CUfileDrvProps_t::max_device_pinned_mem_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t, max_device_pinned_mem_size) - 44usize];
    [
        "Offset of field: CUfileDrvProps_t::max_batch_io_size",
    ][::std::mem::offset_of!(CUfileDrvProps_t, max_batch_io_size) - 48usize];
    [
        "Offset of field: CUfileDrvProps_t::max_batch_io_timeout_msecs",
    ][::std::mem::offset_of!(CUfileDrvProps_t, max_batch_io_timeout_msecs) - 52usize];
};
pub const CU_FILE_USE_POLL_MODE: _bindgen_ty_2 = 0;
pub const CU_FILE_ALLOW_COMPAT_MODE: _bindgen_ty_2 = 1;
pub type _bindgen_ty_2 = ::std::os::raw::c_uint;
pub type CUFileSizeTConfigParameter_t = ::std::os::raw::c_uint;
pub const CUFILE_PARAM_PROFILE_STATS: _bindgen_ty_3 = 0;
pub const CUFILE_PARAM_EXECUTION_MAX_IO_QUEUE_DEPTH: _bindgen_ty_3 = 1;
pub const CUFILE_PARAM_EXECUTION_MAX_IO_THREADS: _bindgen_ty_3 = 2;
pub const CUFILE_PARAM_EXECUTION_MIN_IO_THRESHOLD_SIZE_KB: _bindgen_ty_3 = 3;
pub const CUFILE_PARAM_EXECUTION_MAX_REQUEST_PARALLELISM: _bindgen_ty_3 = 4;
pub const CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB: _bindgen_ty_3 = 5;
pub const CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB: _bindgen_ty_3 = 6;
pub const CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB: _bindgen_ty_3 = 7;
pub const CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB: _bindgen_ty_3 = 8;
pub type _bindgen_ty_3 = ::std::os::raw::c_uint;
pub type CUFileBoolConfigParameter_t = ::std::os::raw::c_uint;
pub const CUFILE_PARAM_PROPERTIES_USE_POLL_MODE: _bindgen_ty_4 = 0;
pub const CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE: _bindgen_ty_4 = 1;
pub const CUFILE_PARAM_FORCE_COMPAT_MODE: _bindgen_ty_4 = 2;
pub const CUFILE_PARAM_EXECUTION_PARALLEL_IO: _bindgen_ty_4 = 4;
pub const CUFILE_PARAM_PROPERTIES_ALLOW_SYSTEM_MEMORY: _bindgen_ty_4 = 6;
pub const CUFILE_PARAM_USE_PCIP2PDMA: _bindgen_ty_4 = 7;
pub const CUFILE_PARAM_PREFER_IO_URING: _bindgen_ty_4 = 8;
pub const CUFILE_PARAM_FORCE_ODIRECT_MODE: _bindgen_ty_4 = 9;
pub type _bindgen_ty_4 = ::std::os::raw::c_uint;
pub type CUFileStringConfigParameter_t = ::std::os::raw::c_uint;
pub const CUFILE_PARAM_LOGGING_LEVEL: _bindgen_ty_5 = 0;
pub const CUFILE_PARAM_LOG_DIR: _bindgen_ty_5 = 2;
pub type _bindgen_ty_5 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfilePerGpuStats_t {
    pub uuid: [u8; 16usize],
    pub read_bytes: u64,
    pub read_bw_bytes_per_sec: u64,
    pub read_utilization: u64,
    pub read_duration_us: u64,
    pub n_total_reads: u64,
    pub n_p2p_reads: u64,
    pub n_nvfs_reads: u64,
    pub n_posix_reads: u64,
    pub n_unaligned_reads: u64,
    pub n_dr_reads: u64,
    pub n_sparse_regions: u64,
    pub n_inline_regions: u64,
    pub n_reads_err: u64,
    pub writes_bytes: u64,
    pub write_bw_bytes_per_sec: u64,
    pub write_utilization: u64,
    pub write_duration_us: u64,
    pub n_total_writes: u64,
    pub n_p2p_writes: u64,
    pub n_nvfs_writes: u64,
    pub n_posix_writes: u64,
    pub n_unaligned_writes: u64,
    pub n_dr_writes: u64,
    pub n_writes_err: u64,
    pub n_mmap: u64,
    pub n_mmap_ok: u64,
    pub n_mmap_err: u64,
    pub n_mmap_free: u64,
    pub reg_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of CUfilePerGpuStats_t",
    ][::std::mem::size_of::<CUfilePerGpuStats_t>() - 248usize];
    [
        "Alignment of CUfilePerGpuStats_t",
    ][::std::mem::align_of::<CUfilePerGpuStats_t>() - 8usize];
    [
        "Offset of field: CUfilePerGpuStats_t::uuid",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, uuid) - 0usize];
    [
        "Offset of field: CUfilePerGpuStats_t::read_bytes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, read_bytes) - 16usize];
    [
        "Offset of field: CUfilePerGpuStats_t::read_bw_bytes_per_sec",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, read_bw_bytes_per_sec) - 24usize];
    [
        "Offset of field: CUfilePerGpuStats_t::read_utilization",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, read_utilization) - 32usize];
    [
        "Offset of field: CUfilePerGpuStats_t::read_duration_us",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, read_duration_us) - 40usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_total_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_total_reads) - 48usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_p2p_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_p2p_reads) - 56usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_nvfs_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_nvfs_reads) - 64usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_posix_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_posix_reads) - 72usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_unaligned_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_unaligned_reads) - 80usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_dr_reads",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_dr_reads) - 88usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_sparse_regions",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_sparse_regions) - 96usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_inline_regions",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_inline_regions) - 104usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_reads_err",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_reads_err) - 112usize];
    [
        "Offset of field: CUfilePerGpuStats_t::writes_bytes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, writes_bytes) - 120usize];
    [
        "Offset of field: CUfilePerGpuStats_t::write_bw_bytes_per_sec",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, write_bw_bytes_per_sec) - 128usize];
    [
        "Offset of field: CUfilePerGpuStats_t::write_utilization",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, write_utilization) - 136usize];
    [
        "Offset of field: CUfilePerGpuStats_t::write_duration_us",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, write_duration_us) - 144usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_total_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_total_writes) - 152usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_p2p_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_p2p_writes) - 160usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_nvfs_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_nvfs_writes) - 168usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_posix_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_posix_writes) - 176usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_unaligned_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_unaligned_writes) - 184usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_dr_writes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_dr_writes) - 192usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_writes_err",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_writes_err) - 200usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_mmap",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_mmap) - 208usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_mmap_ok",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_mmap_ok) - 216usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_mmap_err",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_mmap_err) - 224usize];
    [
        "Offset of field: CUfilePerGpuStats_t::n_mmap_free",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, n_mmap_free) - 232usize];
    [
        "Offset of field: CUfilePerGpuStats_t::reg_bytes",
    ][::std::mem::offset_of!(CUfilePerGpuStats_t, reg_bytes) - 240usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileStatsLevel3_t {
    pub detailed: [u64; 128usize],
    pub num_gpus: u32,
    pub per_gpu_stats: [CUfilePerGpuStats_t; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of CUfileStatsLevel3_t",
    ][::std::mem::size_of::<CUfileStatsLevel3_t>() - 5000usize];
    [
        "Alignment of CUfileStatsLevel3_t",
    ][::std::mem::align_of::<CUfileStatsLevel3_t>() - 8usize];
    [
        "Offset of field: CUfileStatsLevel3_t::detailed",
    ][::std::mem::offset_of!(CUfileStatsLevel3_t, detailed) - 0usize];
    [
        "Offset of field: CUfileStatsLevel3_t::num_gpus",
    ][::std::mem::offset_of!(CUfileStatsLevel3_t, num_gpus) - 1024usize];
    [
        "Offset of field: CUfileStatsLevel3_t::per_gpu_stats",
    ][::std::mem::offset_of!(CUfileStatsLevel3_t, per_gpu_stats) - 1032usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUfileStatsLevel3_v1190_t {
    pub detailed: [u64; 142usize],
    pub num_gpus: u32,
    pub per_gpu_stats: [CUfilePerGpuStats_t; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of CUfileStatsLevel3_v1190_t",
    ][::std::mem::size_of::<CUfileStatsLevel3_v1190_t>() - 5112usize];
    [
        "Alignment of CUfileStatsLevel3_v1190_t",
    ][::std::mem::align_of::<CUfileStatsLevel3_v1190_t>() - 8usize];
    [
        "Offset of field: CUfileStatsLevel3_v1190_t::detailed",
    ][::std::mem::offset_of!(CUfileStatsLevel3_v1190_t, detailed) - 0usize];
    [
        "Offset of field: CUfileStatsLevel3_v1190_t::num_gpus",
    ][::std::mem::offset_of!(CUfileStatsLevel3_v1190_t, num_gpus) - 1136usize];
    [
        "Offset of field: CUfileStatsLevel3_v1190_t::per_gpu_stats",
    ][::std::mem::offset_of!(CUfileStatsLevel3_v1190_t, per_gpu_stats) - 1144usize];
};
pub struct CuFile {
    __library: ::libloading::Library,
    pub cuFileDriverOpen: Result<
        unsafe extern "C" fn() -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileDriverClose_v2: Result<
        unsafe extern "C" fn() -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileDriverGetProperties: Result<
        unsafe extern "C" fn(props: *mut CUfileDrvProps_t) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileHandleRegister: Result<
        unsafe extern "C" fn(
            fh: *mut CUfileHandle_t,
            descr: *mut CUfileDescr_t,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileHandleDeregister: Result<
        unsafe extern "C" fn(fh: CUfileHandle_t),
        ::libloading::Error,
    >,
    pub cuFileBufRegister: Result<
        unsafe extern "C" fn(
            base: *const ::std::os::raw::c_void,
            length: usize,
            flags: ::std::os::raw::c_int,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileBufDeregister: Result<
        unsafe extern "C" fn(base: *const ::std::os::raw::c_void) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileRead: Result<
        unsafe extern "C" fn(
            fh: CUfileHandle_t,
            base: *mut ::std::os::raw::c_void,
            size: usize,
            file_offset: off_t,
            base_offset: off_t,
        ) -> isize,
        ::libloading::Error,
    >,
    pub cuFileGetVersion: Result<
        unsafe extern "C" fn(version: *mut ::std::os::raw::c_int) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileSetParameterSizeT: Result<
        unsafe extern "C" fn(
            param: CUFileSizeTConfigParameter_t,
            value: usize,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileSetParameterBool: Result<
        unsafe extern "C" fn(
            param: CUFileBoolConfigParameter_t,
            value: bool,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileGetParameterSizeT: Result<
        unsafe extern "C" fn(
            param: CUFileSizeTConfigParameter_t,
            value: *mut usize,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileGetParameterBool: Result<
        unsafe extern "C" fn(
            param: CUFileBoolConfigParameter_t,
            value: *mut bool,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileGetParameterString: Result<
        unsafe extern "C" fn(
            param: CUFileStringConfigParameter_t,
            text: *mut ::std::os::raw::c_char,
            bytes: ::std::os::raw::c_int,
        ) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileSetStatsLevel: Result<
        unsafe extern "C" fn(level: ::std::os::raw::c_int) -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileStatsStart: Result<
        unsafe extern "C" fn() -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileStatsStop: Result<
        unsafe extern "C" fn() -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileStatsReset: Result<
        unsafe extern "C" fn() -> CUfileError_t,
        ::libloading::Error,
    >,
    pub cuFileGetStatsL3: Result<
        unsafe extern "C" fn(stats: *mut CUfileStatsLevel3_t) -> CUfileError_t,
        ::libloading::Error,
    >,
}
impl CuFile {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let path = path.as_ref();
        let library = unsafe { ::libloading::Library::new(path) }?;
        unsafe { Self::from_library(library) }
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let cuFileDriverOpen = unsafe { __library.get(b"cuFileDriverOpen\0") }
            .map(|sym| *sym);
        let cuFileDriverClose_v2 = unsafe { __library.get(b"cuFileDriverClose_v2\0") }
            .map(|sym| *sym);
        let cuFileDriverGetProperties = unsafe {
            __library.get(b"cuFileDriverGetProperties\0")
        }
            .map(|sym| *sym);
        let cuFileHandleRegister = unsafe { __library.get(b"cuFileHandleRegister\0") }
            .map(|sym| *sym);
        let cuFileHandleDeregister = unsafe {
            __library.get(b"cuFileHandleDeregister\0")
        }
            .map(|sym| *sym);
        let cuFileBufRegister = unsafe { __library.get(b"cuFileBufRegister\0") }
            .map(|sym| *sym);
        let cuFileBufDeregister = unsafe { __library.get(b"cuFileBufDeregister\0") }
            .map(|sym| *sym);
        let cuFileRead = unsafe { __library.get(b"cuFileRead\0") }.map(|sym| *sym);
        let cuFileGetVersion = unsafe { __library.get(b"cuFileGetVersion\0") }
            .map(|sym| *sym);
        let cuFileSetParameterSizeT = unsafe {
            __library.get(b"cuFileSetParameterSizeT\0")
        }
            .map(|sym| *sym);
        let cuFileSetParameterBool = unsafe {
            __library.get(b"cuFileSetParameterBool\0")
        }
            .map(|sym| *sym);
        let cuFileGetParameterSizeT = unsafe {
            __library.get(b"cuFileGetParameterSizeT\0")
        }
            .map(|sym| *sym);
        let cuFileGetParameterBool = unsafe {
            __library.get(b"cuFileGetParameterBool\0")
        }
            .map(|sym| *sym);
        let cuFileGetParameterString = unsafe {
            __library.get(b"cuFileGetParameterString\0")
        }
            .map(|sym| *sym);
        let cuFileSetStatsLevel = unsafe { __library.get(b"cuFileSetStatsLevel\0") }
            .map(|sym| *sym);
        let cuFileStatsStart = unsafe { __library.get(b"cuFileStatsStart\0") }
            .map(|sym| *sym);
        let cuFileStatsStop = unsafe { __library.get(b"cuFileStatsStop\0") }
            .map(|sym| *sym);
        let cuFileStatsReset = unsafe { __library.get(b"cuFileStatsReset\0") }
            .map(|sym| *sym);
        let cuFileGetStatsL3 = unsafe { __library.get(b"cuFileGetStatsL3\0") }
            .map(|sym| *sym);
        Ok(CuFile {
            __library,
            cuFileDriverOpen,
            cuFileDriverClose_v2,
            cuFileDriverGetProperties,
            cuFileHandleRegister,
            cuFileHandleDeregister,
            cuFileBufRegister,
            cuFileBufDeregister,
            cuFileRead,
            cuFileGetVersion,
            cuFileSetParameterSizeT,
            cuFileSetParameterBool,
            cuFileGetParameterSizeT,
            cuFileGetParameterBool,
            cuFileGetParameterString,
            cuFileSetStatsLevel,
            cuFileStatsStart,
            cuFileStatsStop,
            cuFileStatsReset,
            cuFileGetStatsL3,
        })
    }
    pub unsafe fn cuFileDriverOpen(&self) -> CUfileError_t {
        unsafe {
            (self.cuFileDriverOpen.as_ref().expect("Expected function, got error."))()
        }
    }
    pub unsafe fn cuFileDriverClose_v2(&self) -> CUfileError_t {
        unsafe {
            (self
                .cuFileDriverClose_v2
                .as_ref()
                .expect("Expected function, got error."))()
        }
    }
    pub unsafe fn cuFileDriverGetProperties(
        &self,
        props: *mut CUfileDrvProps_t,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileDriverGetProperties
                .as_ref()
                .expect("Expected function, got error."))(props)
        }
    }
    pub unsafe fn cuFileHandleRegister(
        &self,
        fh: *mut CUfileHandle_t,
        descr: *mut CUfileDescr_t,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileHandleRegister
                .as_ref()
                .expect("Expected function, got error."))(fh, descr)
        }
    }
    pub unsafe fn cuFileHandleDeregister(&self, fh: CUfileHandle_t) {
        unsafe {
            (self
                .cuFileHandleDeregister
                .as_ref()
                .expect("Expected function, got error."))(fh)
        }
    }
    pub unsafe fn cuFileBufRegister(
        &self,
        base: *const ::std::os::raw::c_void,
        length: usize,
        flags: ::std::os::raw::c_int,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileBufRegister
                .as_ref()
                .expect("Expected function, got error."))(base, length, flags)
        }
    }
    pub unsafe fn cuFileBufDeregister(
        &self,
        base: *const ::std::os::raw::c_void,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileBufDeregister
                .as_ref()
                .expect("Expected function, got error."))(base)
        }
    }
    pub unsafe fn cuFileRead(
        &self,
        fh: CUfileHandle_t,
        base: *mut ::std::os::raw::c_void,
        size: usize,
        file_offset: off_t,
        base_offset: off_t,
    ) -> isize {
        unsafe {
            (self
                .cuFileRead
                .as_ref()
                .expect(
                    "Expected function, got error.",
                ))(fh, base, size, file_offset, base_offset)
        }
    }
    pub unsafe fn cuFileGetVersion(
        &self,
        version: *mut ::std::os::raw::c_int,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileGetVersion
                .as_ref()
                .expect("Expected function, got error."))(version)
        }
    }
    pub unsafe fn cuFileSetParameterSizeT(
        &self,
        param: CUFileSizeTConfigParameter_t,
        value: usize,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileSetParameterSizeT
                .as_ref()
                .expect("Expected function, got error."))(param, value)
        }
    }
    pub unsafe fn cuFileSetParameterBool(
        &self,
        param: CUFileBoolConfigParameter_t,
        value: bool,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileSetParameterBool
                .as_ref()
                .expect("Expected function, got error."))(param, value)
        }
    }
    pub unsafe fn cuFileGetParameterSizeT(
        &self,
        param: CUFileSizeTConfigParameter_t,
        value: *mut usize,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileGetParameterSizeT
                .as_ref()
                .expect("Expected function, got error."))(param, value)
        }
    }
    pub unsafe fn cuFileGetParameterBool(
        &self,
        param: CUFileBoolConfigParameter_t,
        value: *mut bool,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileGetParameterBool
                .as_ref()
                .expect("Expected function, got error."))(param, value)
        }
    }
    pub unsafe fn cuFileGetParameterString(
        &self,
        param: CUFileStringConfigParameter_t,
        text: *mut ::std::os::raw::c_char,
        bytes: ::std::os::raw::c_int,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileGetParameterString
                .as_ref()
                .expect("Expected function, got error."))(param, text, bytes)
        }
    }
    pub unsafe fn cuFileSetStatsLevel(
        &self,
        level: ::std::os::raw::c_int,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileSetStatsLevel
                .as_ref()
                .expect("Expected function, got error."))(level)
        }
    }
    pub unsafe fn cuFileStatsStart(&self) -> CUfileError_t {
        unsafe {
            (self.cuFileStatsStart.as_ref().expect("Expected function, got error."))()
        }
    }
    pub unsafe fn cuFileStatsStop(&self) -> CUfileError_t {
        unsafe {
            (self.cuFileStatsStop.as_ref().expect("Expected function, got error."))()
        }
    }
    pub unsafe fn cuFileStatsReset(&self) -> CUfileError_t {
        unsafe {
            (self.cuFileStatsReset.as_ref().expect("Expected function, got error."))()
        }
    }
    pub unsafe fn cuFileGetStatsL3(
        &self,
        stats: *mut CUfileStatsLevel3_t,
    ) -> CUfileError_t {
        unsafe {
            (self
                .cuFileGetStatsL3
                .as_ref()
                .expect("Expected function, got error."))(stats)
        }
    }
}

//! cuFile's calls with their results checked: a code becomes an error, and so does a function that this library
//! lacks or that its version makes doubtful. No call here panics.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};

use crate::cufile::error::{CODE_BASE, CufileError, What};
use crate::cufile::raw;

type Result<T> = std::result::Result<T, CufileError>;

/// `cuFileSetParameter*` and `cuFileGetParameter*`: CUDA 12.9.
const PARAMETERS_SINCE: u32 = 1140;
/// `cuFileGetStatsL3` and its kin: CUDA 13.0.
const STATS_SINCE: u32 = 1150;
/// More than any known level of counters takes: later libraries write more than the header here says.
pub(super) const STATS_BYTES: usize = 64 << 10;
/// What the counters' buffer holds before the call, so that what was written can be told from what was not.
pub(super) const STATS_FILL: u8 = 0xa5;

pub(super) struct Calls {
    /// Never unloaded: cuFile keeps threads, and drivers of its own, that outlive `cuFileDriverClose`.
    raw: ManuallyDrop<raw::CuFile>,
    pub(super) version: Option<u32>,
}

/// A function's pointer, or the error that it is missing.
macro_rules! function {
    ($self:ident.$name:ident) => {
        match &$self.raw.$name {
            Ok(function) => *function,
            Err(_) => return Err(missing(stringify!($name))),
        }
    };
}

/// The same, also an error where the library is older than `$since`.
macro_rules! function_since {
    ($self:ident.$name:ident, $since:expr) => {{
        if $self.version.is_none_or(|version| version < $since) {
            return Err(too_old(stringify!($name), $since, $self.version));
        }
        function!($self.$name)
    }};
}

impl Calls {
    /// Refuses a library that lacks what every version has.
    ///
    /// # Safety
    /// `library` is a libcufile, or something with the same ABI.
    pub(super) unsafe fn new(library: libloading::Library) -> Result<Self> {
        // SAFETY: by this function's contract the symbols have the types of the bindings.
        let raw = unsafe { raw::CuFile::from_library(library) }.map_err(|error| {
            CufileError::other("dlsym", What::NotLoaded, error.to_string(), "install libcufile anew")
        })?;
        let mut calls = Self { raw: ManuallyDrop::new(raw), version: None };
        calls.read_address()?;
        calls.version = calls.read_version().ok();
        Ok(calls)
    }

    /// Where `cuFileRead` lies: it tells loaded libraries apart.
    pub(super) fn read_address(&self) -> Result<usize> {
        Ok(function!(self.cuFileRead) as usize)
    }

    fn read_version(&self) -> Result<u32> {
        let mut version: c_int = 0;
        // SAFETY: the pointer is to a live int.
        let status = unsafe { function!(self.cuFileGetVersion)(&mut version) };
        check("cuFileGetVersion", status)?;
        u32::try_from(version).map_err(|_| CufileError::from_code("cuFileGetVersion", version.into(), None))
    }

    pub(super) fn driver_open(&self) -> Result<()> {
        // SAFETY: takes nothing.
        check("cuFileDriverOpen", unsafe { function!(self.cuFileDriverOpen)() })
    }

    pub(super) fn driver_close(&self) -> Result<()> {
        // SAFETY: takes nothing. Handles and registrations hold the driver, so that none is left.
        check("cuFileDriverClose_v2", unsafe { function!(self.cuFileDriverClose_v2)() })
    }

    pub(super) fn properties(&self) -> Result<raw::CUfileDrvProps_t> {
        let mut properties = MaybeUninit::<raw::CUfileDrvProps_t>::zeroed();
        // SAFETY: the pointer is to live memory of the struct's size.
        let status = unsafe { function!(self.cuFileDriverGetProperties)(properties.as_mut_ptr()) };
        check("cuFileDriverGetProperties", status)?;
        // SAFETY: integers alone, zeroed before the call.
        Ok(unsafe { properties.assume_init() })
    }

    /// The file descriptor must stay open until the handle is deregistered, or reads may reach another file.
    pub(super) fn handle_register(&self, fd: c_int) -> Result<raw::CUfileHandle_t> {
        let mut descriptor = raw::CUfileDescr_t {
            type_: raw::CU_FILE_HANDLE_TYPE_OPAQUE_FD,
            handle: raw::CUfileDescr_t__bindgen_ty_1 { fd },
            fs_ops: std::ptr::null(),
        };
        let mut handle: raw::CUfileHandle_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live values of those types; a bad descriptor is an error code.
        let status = unsafe { function!(self.cuFileHandleRegister)(&mut handle, &mut descriptor) };
        check("cuFileHandleRegister", status)?;
        Ok(handle)
    }

    /// # Safety
    /// `handle` is registered, and nobody uses it from now on.
    pub(super) unsafe fn handle_deregister(&self, handle: raw::CUfileHandle_t) -> Result<()> {
        let deregister = function!(self.cuFileHandleDeregister);
        // SAFETY: by this function's contract.
        unsafe { deregister(handle) };
        Ok(())
    }

    /// # Safety
    /// `[address, address + bytes)` is one live allocation, and stays so until it is deregistered.
    pub(super) unsafe fn buffer_register(&self, address: u64, bytes: usize) -> Result<()> {
        let register = function!(self.cuFileBufRegister);
        // SAFETY: by this function's contract.
        check("cuFileBufRegister", unsafe { register(address as *const c_void, bytes, 0) })
    }

    /// # Safety
    /// No read into the registered memory is under way.
    pub(super) unsafe fn buffer_deregister(&self, address: u64) -> Result<()> {
        let deregister = function!(self.cuFileBufDeregister);
        // SAFETY: by this function's contract.
        check("cuFileBufDeregister", unsafe { deregister(address as *const c_void) })
    }

    /// Bytes read: fewer than `bytes` at the file's end, and whenever cuFile likes.
    ///
    /// # Safety
    /// `handle` is registered, and `[base + base_offset, base + base_offset + bytes)` may be written by the
    /// caller alone for as long as the call takes.
    pub(super) unsafe fn read(
        &self,
        handle: raw::CUfileHandle_t,
        base: u64,
        base_offset: i64,
        bytes: usize,
        file_offset: i64,
    ) -> Result<u64> {
        const CALL: &str = "cuFileRead";
        let read = function!(self.cuFileRead);
        // What an earlier call left there must not be taken for this one's.
        // SAFETY: the pointer is to this thread's errno.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: by this function's contract.
        let returned = unsafe { read(handle, base as *mut c_void, bytes, file_offset, base_offset) };
        // errno first, before anything else can change it.
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        match usize::try_from(returned) {
            Ok(count) if count <= bytes => Ok(count as u64),
            Ok(count) => Err(CufileError::other(
                CALL,
                What::Unknown(returned as i64),
                format!("{count} bytes said to be read where {bytes} were asked for"),
                "do not trust this library; please report it",
            )),
            Err(_) if returned == -1 && errno != 0 => Err(CufileError::from_errno(CALL, errno)),
            Err(_) => Err(CufileError::from_code(CALL, returned as i64, None)),
        }
    }

    pub(super) fn set_size(&self, parameter: u32, value: usize) -> Result<()> {
        let set = function_since!(self.cuFileSetParameterSizeT, PARAMETERS_SINCE);
        // SAFETY: integers; a bad one is an error code.
        check("cuFileSetParameterSizeT", unsafe { set(parameter, value) })
    }

    pub(super) fn set_bool(&self, parameter: u32, value: bool) -> Result<()> {
        let set = function_since!(self.cuFileSetParameterBool, PARAMETERS_SINCE);
        // SAFETY: as above.
        check("cuFileSetParameterBool", unsafe { set(parameter, value) })
    }

    pub(super) fn size(&self, parameter: u32) -> Result<usize> {
        let get = function_since!(self.cuFileGetParameterSizeT, PARAMETERS_SINCE);
        let mut value = 0;
        // SAFETY: the pointer is to a live size_t.
        check("cuFileGetParameterSizeT", unsafe { get(parameter, &mut value) })?;
        Ok(value)
    }

    pub(super) fn bool(&self, parameter: u32) -> Result<bool> {
        let get = function_since!(self.cuFileGetParameterBool, PARAMETERS_SINCE);
        // A byte, since a Rust bool must never be anything but 0 or 1.
        let mut value = 0u8;
        // SAFETY: the pointer is to a live byte, which is a C bool's size.
        check("cuFileGetParameterBool", unsafe { get(parameter, (&raw mut value).cast()) })?;
        Ok(value != 0)
    }

    pub(super) fn string(&self, parameter: u32) -> Result<String> {
        let get = function_since!(self.cuFileGetParameterString, PARAMETERS_SINCE);
        // One byte more than cuFile is told of, so that the text always ends.
        let mut text = [0u8; 4097];
        let bytes = 4096;
        // SAFETY: the pointer is to more than `bytes` live bytes.
        let status = unsafe { get(parameter, text.as_mut_ptr().cast::<c_char>(), bytes) };
        check("cuFileGetParameterString", status)?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    pub(super) fn stats_level(&self, level: c_int) -> Result<()> {
        let set = function_since!(self.cuFileSetStatsLevel, STATS_SINCE);
        // SAFETY: an integer.
        check("cuFileSetStatsLevel", unsafe { set(level) })
    }

    pub(super) fn stats_start(&self) -> Result<()> {
        let start = function_since!(self.cuFileStatsStart, STATS_SINCE);
        // SAFETY: takes nothing.
        check("cuFileStatsStart", unsafe { start() })
    }

    pub(super) fn stats_stop(&self) -> Result<()> {
        let stop = function_since!(self.cuFileStatsStop, STATS_SINCE);
        // SAFETY: takes nothing.
        check("cuFileStatsStop", unsafe { stop() })
    }

    pub(super) fn stats_reset(&self) -> Result<()> {
        let reset = function_since!(self.cuFileStatsReset, STATS_SINCE);
        // SAFETY: takes nothing.
        check("cuFileStatsReset", unsafe { reset() })
    }

    /// The counters of level 3 as bytes, `STATS_FILL` where nothing was written.
    pub(super) fn stats(&self) -> Result<Vec<u8>> {
        let get = function_since!(self.cuFileGetStatsL3, STATS_SINCE);
        let words = STATS_BYTES / size_of::<u64>();
        let mut buffer = vec![u64::from_ne_bytes([STATS_FILL; 8]); words];
        // SAFETY: the buffer is aligned as the struct is, and 13 times as large as its largest known form.
        check("cuFileGetStatsL3", unsafe { get(buffer.as_mut_ptr().cast()) })?;
        Ok(buffer.into_iter().flat_map(u64::to_ne_bytes).collect())
    }
}

fn check(call: &'static str, status: raw::CUfileError_t) -> Result<()> {
    match status.err {
        0 => Ok(()),
        code => {
            let cuda = (code.unsigned_abs() > CODE_BASE.unsigned_abs()).then_some(status.cu_err);
            Err(CufileError::from_code(call, code.into(), cuda))
        }
    }
}

fn missing(call: &'static str) -> CufileError {
    CufileError::other(
        call,
        What::Missing,
        "this libcufile has no such function",
        "install a later CUDA version's",
    )
}

fn too_old(call: &'static str, since: u32, version: Option<u32>) -> CufileError {
    let have = version.map_or("one too old to say its version".into(), dotted);
    let cause = format!("it came with version {}, and this is {have}", dotted(since));
    CufileError::other(call, What::Missing, cause, "install a later CUDA version's libcufile")
}

/// 1150 as 1.15.
pub(super) fn dotted(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

//! Finding and loading `libcufile.so.0`.

use std::any::Any;
use std::env;
use std::ffi::{CStr, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::cufile::checked::{Calls, dotted};
use crate::cufile::error::{CufileError, What};
use crate::cufile::log::Log;
use crate::cufile::options::DriverOptions;
use crate::cufile::parameters::Pending;
use crate::cufile::places;
use crate::cufile::places::NAME;
use crate::cufile::raw;

/// A loaded libcufile. It stays loaded until the process ends.
pub struct Library {
    pub(super) calls: Calls,
    path: PathBuf,
    /// cuFile has one driver, whoever opens it.
    state: Mutex<State>,
    /// Signalled when the driver was closed.
    pub(super) closed: Condvar,
    log: OnceLock<Log>,
    /// Changed only while the state is locked.
    pending: Mutex<Pending>,
}

/// Whether a library's driver is open. `Open` (a `Driver`, and how it was opened) stands until
/// it is closed, even when nobody holds it any more.
pub(super) enum State {
    Closed,
    Open(Weak<dyn Any + Send + Sync>, DriverOptions),
    /// A thread is still inside the call, and will be for ever. It was waited for this long.
    Stuck(Duration),
}

/// Every library in use, by the address of a function of it: loading one twice must not give it two drivers.
static LOADED: Mutex<Vec<(usize, Weak<Library>)>> = Mutex::new(Vec::new());

impl Library {
    /// Loads `libcufile.so.0` from where the dynamic linker finds it, else from `CUDA_HOME`, `CUDA_PATH`, and the
    /// places where CUDA, pip and conda put it.
    pub fn load() -> Result<Arc<Self>, CufileError> {
        let first = match Self::load_from(Path::new(NAME)) {
            Err(error) if error.what == What::NotLoaded => error,
            other => return other,
        };
        let mut causes = vec![first.cause.into_owned()];
        let candidates = places::here(&|name| env::var(name).ok());
        for path in candidates.iter().map(Path::new).filter(|path| path.is_file()) {
            match Self::load_from(path) {
                Err(error) if error.what == What::NotLoaded => causes.push(error.cause.into_owned()),
                other => return other,
            }
        }
        let remedy = "install it (pip install nvidia-cufile, or CUDA's libcufile package), \
                      or set CUDA_HOME or LD_LIBRARY_PATH to where it is";
        Err(CufileError::other("dlopen", What::NotLoaded, causes.join("; "), remedy))
    }

    /// Loads the library at `path`; a name without a slash is looked up as the dynamic linker does.
    pub fn load_from(path: &Path) -> Result<Arc<Self>, CufileError> {
        // SAFETY: loading runs the library's initialisers. That it is a libcufile is the user's word, as with
        // every shared library that a program loads by name.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
            // libloading says only that it failed; the linker's own words are its source.
            let cause =
                std::error::Error::source(&error).map_or(error.to_string(), |source| source.to_string());
            CufileError::other(
                "dlopen",
                What::NotLoaded,
                cause,
                "check the path, and that it is for this machine",
            )
        })?;
        // SAFETY: as above.
        let calls = unsafe { Calls::new(library) }?;
        let address = calls.read_address()?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|(_, library)| library.strong_count() > 0);
        let known = loaded.iter().find(|(known, _)| *known == address);
        if let Some(library) = known.and_then(|(_, library)| library.upgrade()) {
            return Ok(library);
        }
        let path = file_of(address).unwrap_or_else(|| path.into());
        let state = Mutex::new(State::Closed);
        let (closed, log) = (Condvar::new(), OnceLock::new());
        let library = Arc::new(Self { calls, path, state, closed, log, pending: Mutex::default() });
        loaded.push((address, Arc::downgrade(&library)));
        Ok(library)
    }

    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `1000 * major + 10 * minor`, as 1150 for 1.15; `None` before 1.8.
    pub fn version(&self) -> Option<u32> {
        self.calls.version
    }

    /// The version as people write it.
    pub fn version_text(&self) -> String {
        self.version().map_or("before 1.8".into(), dotted)
    }

    /// cuFile's settings as it knows them now, by the names of its configuration file: after the driver opened,
    /// what it uses. An error where the library is older than 1.14.
    pub fn configuration(&self) -> Vec<(&'static str, Result<String, CufileError>)> {
        let sizes = SIZES.iter().map(|&(name, id)| (name, self.calls.size(id).map(|v| v.to_string())));
        let bools = BOOLS.iter().map(|&(name, id)| (name, self.calls.bool(id).map(|v| v.to_string())));
        let strings = STRINGS.iter().map(|&(name, id)| (name, self.calls.string(id)));
        sizes.chain(bools).chain(strings).collect()
    }

    /// Chosen at the first call, before the driver opens.
    pub(super) fn log(&self) -> &Log {
        self.log.get_or_init(Log::choose)
    }

    /// Adds the new errors of cuFile's log.
    pub(super) fn explain(&self, error: CufileError) -> CufileError {
        error.with_log(self.log().new_errors())
    }

    /// What is set for the driver's next opening.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "libcufile {} at {}", self.version_text(), self.path.display())
    }
}

const SIZES: &[(&str, u32)] = &[
    ("execution.max_io_queue_depth", raw::CUFILE_PARAM_EXECUTION_MAX_IO_QUEUE_DEPTH),
    ("execution.max_io_threads", raw::CUFILE_PARAM_EXECUTION_MAX_IO_THREADS),
    ("execution.max_request_parallelism", raw::CUFILE_PARAM_EXECUTION_MAX_REQUEST_PARALLELISM),
    ("execution.min_io_threshold_size_kb", raw::CUFILE_PARAM_EXECUTION_MIN_IO_THRESHOLD_SIZE_KB),
    ("profile.cufile_stats", raw::CUFILE_PARAM_PROFILE_STATS),
    ("properties.max_device_cache_size_kb", raw::CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB),
    ("properties.max_device_pinned_mem_size_kb", raw::CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB),
    ("properties.max_direct_io_size_kb", raw::CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB),
    ("properties.per_buffer_cache_size_kb", raw::CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB),
];

const BOOLS: &[(&str, u32)] = &[
    ("execution.parallel_io", raw::CUFILE_PARAM_EXECUTION_PARALLEL_IO),
    ("properties.allow_compat_mode", raw::CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE),
    ("properties.allow_system_memory", raw::CUFILE_PARAM_PROPERTIES_ALLOW_SYSTEM_MEMORY),
    ("properties.force_compat_mode", raw::CUFILE_PARAM_FORCE_COMPAT_MODE),
    ("properties.force_odirect_mode", raw::CUFILE_PARAM_FORCE_ODIRECT_MODE),
    ("properties.prefer_iouring", raw::CUFILE_PARAM_PREFER_IO_URING),
    ("properties.use_pci_p2pdma", raw::CUFILE_PARAM_USE_PCIP2PDMA),
    ("properties.use_poll_mode", raw::CUFILE_PARAM_PROPERTIES_USE_POLL_MODE),
];

const STRINGS: &[(&str, u32)] =
    &[("logging.dir", raw::CUFILE_PARAM_LOG_DIR), ("logging.level", raw::CUFILE_PARAM_LOGGING_LEVEL)];

/// The file that the code at `address` was loaded from.
fn file_of(address: usize) -> Option<PathBuf> {
    // SAFETY: a struct of pointers and integers, for which zeros are valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr takes any address and writes only `info`.
    let found = unsafe { libc::dladdr(address as *const c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the linker's own string, which lives as long as the library is loaded: for ever.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(OsStr::from_bytes(name.to_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no library").unwrap();
        let error = Library::load_from(file.path()).unwrap_err();
        assert_eq!(error.what, What::NotLoaded);
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_library_without_the_base_functions_is_refused() {
        let error = Library::load_from(Path::new("libm.so.6")).unwrap_err();
        assert_eq!((error.call, error.what), ("cuFileRead", What::Missing));
    }
}

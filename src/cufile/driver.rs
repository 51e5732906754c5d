//! cuFile's driver: opened once for a library, closed when its last user is gone.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crate::cufile::error::{CufileError, What};
use crate::cufile::library::{Library, State};
use crate::cufile::log::LogLine;
use crate::cufile::options::DriverOptions;
use crate::cufile::parameters;
use crate::cufile::raw;

const OPEN: &str = "cuFileDriverOpen";

/// The open driver. Files and registered memory hold it; when the last is gone, it closes.
#[derive(Debug)]
pub struct Driver {
    library: Arc<Library>,
}

impl Driver {
    /// Opens the driver, or shares it where it is open with the same options already.
    ///
    /// That it opens proves nothing about the path: without nvidia-fs or P2PDMA it reads through host memory.
    pub fn open(library: &Arc<Library>, options: &DriverOptions) -> Result<Arc<Self>, CufileError> {
        let mut state = library.state();
        while let State::Open(driver, with) = &*state {
            let same = with == options;
            match driver.upgrade().and_then(|driver| driver.downcast::<Driver>().ok()) {
                Some(driver) => {
                    // Before the driver, which takes the lock to close if it is the last one.
                    drop(state);
                    let other =
                        || refused("the driver is open, with other settings", "drop what uses it first");
                    return if same { Ok(driver) } else { Err(other()) };
                }
                // Its last user is gone, and about to close it.
                None => state = library.closed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        if let State::Stuck(limit) = *state {
            return Err(never_returned(limit));
        }
        if let Err(error) = File::open(&options.proc_modules) {
            let path = options.proc_modules.display();
            let cause =
                format!("{path} cannot be read ({error}), and cuFile may then look for nvidia-fs for ever");
            return Err(refused(cause, "use a kernel with loadable modules, or load with the engine pinned"));
        }
        parameters::set(&library.calls, &mut library.pending(), options)?;
        let opened = open_within(library, options.open_limit)?;
        library.pending().clear();
        match opened {
            Some(Ok(())) => {
                let driver = Arc::new(Self { library: Arc::clone(library) });
                let weak = Arc::downgrade(&driver);
                *state = State::Open(weak, options.clone());
                Ok(driver)
            }
            Some(Err(error)) => Err(library.explain(error)),
            None => {
                *state = State::Stuck(options.open_limit);
                Err(library.explain(never_returned(options.open_limit)))
            }
        }
    }

    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// Where cuFile's log of this driver is.
    pub fn log_path(&self) -> PathBuf {
        self.library.log().path()
    }

    /// What cuFile logged since the driver was to be opened, warnings and notices too.
    pub fn log_lines(&self) -> Vec<LogLine> {
        self.library.log().lines()
    }

    /// What the open driver is set to.
    pub fn properties(&self) -> Result<DriverProperties, CufileError> {
        self.library.calls.properties().map(|raw| DriverProperties::new(&raw)).map_err(|e| self.explain(e))
    }

    /// Adds the new errors of cuFile's log.
    pub(super) fn explain(&self, error: CufileError) -> CufileError {
        self.library.explain(error)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.library.state();
        // Nobody is left who could be told of an error.
        let _ = self.library.calls.driver_close();
        *state = State::Closed;
        self.library.closed.notify_all();
    }
}

/// Opens the driver on a thread of its own, which can be left behind. `None` where it did not return in time.
fn open_within(
    library: &Arc<Library>,
    limit: Duration,
) -> Result<Option<Result<(), CufileError>>, CufileError> {
    let (sender, opened) = mpsc::channel();
    let thread_library = Arc::clone(library);
    let open = move || {
        // The log's place is worth a try, not a failure.
        let _directory = thread_library.log().enter();
        let _ = sender.send(thread_library.calls.driver_open());
    };
    let spawned = thread::Builder::new().name("cufile-open".into()).spawn(open);
    spawned.map_err(|error| {
        refused(format!("no thread to call it on: {error}"), "raise the limit of processes (ulimit -u)")
    })?;
    match opened.recv_timeout(limit) {
        Ok(opened) => Ok(Some(opened)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => {
            Err(refused("the thread that calls it ended", "please report it"))
        }
    }
}

fn refused(cause: impl Into<String>, remedy: &'static str) -> CufileError {
    CufileError::other(OPEN, What::Refused, cause.into(), remedy)
}

fn never_returned(limit: Duration) -> CufileError {
    let cause =
        format!("given up after {limit:?}; the call still runs, and this process cannot use cuFile any more");
    CufileError::other(OPEN, What::NeverReturned, cause, "load with the engine pinned, which needs no cuFile")
}

/// What the open driver is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverProperties {
    /// nvidia-fs, where it is loaded.
    pub nvfs_version: Option<(u32, u32)>,
    pub poll_mode: bool,
    pub compat_allowed: bool,
    pub poll_threshold_bytes: u64,
    pub max_direct_io_bytes: u64,
    pub max_device_cache_bytes: u64,
    pub per_buffer_cache_bytes: u64,
    /// 4 TiB less a little where nothing limits it.
    pub max_pinned_bytes: u64,
    /// cuFile's own bits: file systems and drives with a direct path, modes, features.
    pub file_system_bits: u32,
    pub mode_bits: u32,
    pub feature_bits: u32,
}

/// Bits of `file_system_bits`, by NVIDIA's API reference.
const FILE_SYSTEMS: [(u32, &str); 14] = [
    (0, "Lustre"),
    (1, "WekaFS"),
    (2, "NFS"),
    (3, "GPFS"),
    (4, "NVMe"),
    (5, "NVMe-oF"),
    (6, "SCSI"),
    (7, "ScaleFlux"),
    (8, "NVMesh"),
    (9, "BeeGFS"),
    (11, "NVMe P2PDMA"),
    (12, "ScateFS"),
    (13, "virtiofs"),
    (14, "PanFS"),
];

impl DriverProperties {
    fn new(raw: &raw::CUfileDrvProps_t) -> Self {
        let bytes = |kib: u64| kib.saturating_mul(1024);
        let nvfs = &raw.nvfs;
        let version = (nvfs.major_version, nvfs.minor_version);
        let mode = |bit: u32| nvfs.dcontrolflags >> bit & 1 == 1;
        Self {
            nvfs_version: (version != (0, 0)).then_some(version),
            poll_mode: mode(raw::CU_FILE_USE_POLL_MODE),
            compat_allowed: mode(raw::CU_FILE_ALLOW_COMPAT_MODE),
            poll_threshold_bytes: bytes(nvfs.poll_thresh_size as u64),
            max_direct_io_bytes: bytes(nvfs.max_direct_io_size as u64),
            max_device_cache_bytes: bytes(raw.max_device_cache_size.into()),
            per_buffer_cache_bytes: bytes(raw.per_buffer_cache_size.into()),
            max_pinned_bytes: bytes(raw.max_device_pinned_mem_size.into()),
            file_system_bits: nvfs.dstatusflags,
            mode_bits: nvfs.dcontrolflags,
            feature_bits: raw.fflags,
        }
    }

    /// File systems and drives that cuFile has a direct path to, here.
    pub fn file_systems(&self) -> Vec<&'static str> {
        let set = FILE_SYSTEMS.iter().filter(|(bit, _)| self.file_system_bits >> bit & 1 == 1);
        set.map(|(_, name)| *name).collect()
    }
}

//! How cuFile's driver is opened.

use std::path::PathBuf;
use std::time::Duration;

/// How the driver is opened, for as long as it stays open. What is `None` is as cuFile's configuration has it, whatever
/// an earlier opening had; what is `Some` wants 1.14.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverOptions {
    /// Largest piece that cuFile reads at once; in KiB, rounded down.
    pub max_direct_io_bytes: Option<u64>,
    /// Bounce buffers of one GPU, and of one registered buffer.
    pub max_device_cache_bytes: Option<u64>,
    pub per_buffer_cache_bytes: Option<u64>,
    /// GPU memory that may be pinned.
    pub max_pinned_bytes: Option<u64>,
    /// POSIX reads and copies where there is no direct path.
    pub allow_compat: Option<bool>,
    /// The kernel's PCI P2PDMA, which needs no nvidia-fs.
    pub use_p2pdma: Option<bool>,
    /// `O_DIRECT` in compatibility mode whatever the file was opened with.
    pub force_direct: Option<bool>,
    /// Opening takes 0.2 to 2 s; what takes longer than this is given up.
    pub open_limit: Duration,
    /// Versions from 1.16 on spin for ever where this file is missing, so that it is looked for first. Elsewhere
    /// than `/proc/modules` only in tests.
    pub proc_modules: PathBuf,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            max_direct_io_bytes: None,
            max_device_cache_bytes: None,
            per_buffer_cache_bytes: None,
            max_pinned_bytes: None,
            allow_compat: None,
            use_p2pdma: None,
            force_direct: None,
            open_limit: Duration::from_secs(60),
            proc_modules: "/proc/modules".into(),
        }
    }
}

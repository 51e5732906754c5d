//! cuFile (GPUDirect Storage), loaded with dlopen, in three layers: bindgen's bindings (`raw`), the same calls with
//! their results checked (`checked`), and owners that close what they opened: `Driver`, `Handle`,
//! `Registration`.
//!
//! Codes, counters and layouts grow with every version: codes stay integers, functions that came later are looked
//! up one by one and wanted only where they are used. The facts are from NVIDIA's cuFile API reference, and from
//! trying the libraries 1.11 to 1.20.

mod checked;
mod codes;
mod driver;
mod error;
mod io;
mod library;
mod log;
mod options;
mod parameters;
/// Where libcufile may lie.
pub mod places;
mod raw;
mod stats;

pub use crate::cufile::codes::{CODES, Code};
pub use crate::cufile::driver::{Driver, DriverProperties};
pub use crate::cufile::error::{CufileError, What};
pub use crate::cufile::io::{Handle, Registration};
pub use crate::cufile::library::Library;
pub use crate::cufile::log::{LogLine, claim_log};
pub use crate::cufile::options::DriverOptions;
pub use crate::cufile::stats::{GpuReads, PathCounts, ReadStats};

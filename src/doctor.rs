//! Words and a verdict over the facts of a node: what it can do, and what stands in its way.

/// One check.
pub mod check;
/// Which check it is.
pub mod check_id;
/// O_DIRECT, tried.
mod direct;
mod examine;
/// A check, and what of GDS it decides.
pub mod finding;
/// The links between GPUs as a table.
mod gpu_map;
/// GPUs, drives, buses, memory, limits.
pub mod hardware;
/// Counters before and after a run.
pub mod health;
/// cuFile's library and configuration.
mod libcufile;
/// What nvidia-fs counts.
mod nvidia_fs;
/// cuFile's driver opened in a child process.
pub mod probe;
/// What mends what stands in the way.
mod remedies;
/// Text and JSON.
pub mod report;
/// Block devices.
mod storage;
/// Numbers as reports write them.
mod words;

pub use examine::examine;

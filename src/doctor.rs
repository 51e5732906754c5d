//! doctor

/// One finding.
pub mod check;
mod command;
/// O_DIRECT, tried.
mod direct;
/// GPUs, drives, buses, memory, limits.
pub mod hardware;
/// Counters before and after a run.
pub mod health;
/// cuFile's library and configuration.
pub mod libcufile;
/// File systems.
mod mount;
/// NVIDIA's driver and nvidia-fs.
mod nvidia;
/// The kernel's P2PDMA.
mod p2pdma;
/// cuFile's driver opened in a child process.
pub mod probe;
/// Text and JSON.
pub mod report;
/// Block devices and drives.
pub mod storage;
/// The two ways, and what stands in them.
pub mod ways;
/// Numbers as reports write them.
mod words;

pub use command::*;

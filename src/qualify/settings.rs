//! What a run measures, with what, and for how long.

use std::path::PathBuf;

use crate::doctor::check::Check;
use crate::load::{Destination, Options};
use crate::node::block::Drive;
use crate::node::gpu_links::GpuLinks;
use crate::node::source::Source;
use crate::qualify::at_once::Group;
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::schedule::Schedule;

/// Settled before a run, and the same to its end.
pub struct Settings {
    pub source: Source,
    /// The directory whose file system is measured. Canonical.
    pub path: PathBuf,
    pub to: Destination,
    pub options: Options,
    /// What the loader was asked for, as records name it.
    pub engine: &'static str,
    pub gpus: Vec<QualifiedGpu>,
    /// What lies between them, where there are several, and those that are measured together since they share a port.
    pub gpu_links: Option<GpuLinks>,
    pub groups: Vec<Group>,
    /// GPUs were left out on purpose: no criterion asks for them.
    pub without_gpus: bool,
    pub size_bytes: u64,
    /// What is measured, and for how long.
    pub schedule: Schedule,
    /// Where fio can be run.
    pub fio: Option<PathBuf>,
    /// The drives below the path.
    pub drives: Vec<Drive>,
    /// Doctor's, of this path and these GPUs.
    pub checks: Vec<Check>,
    /// `xfs on nvme0n1`, and doctor's line on GDS.
    pub storage: String,
    pub gds: String,
}

//! What a load of any kind leaves: the figures for its record, and what to verify.

use crate::gpu::memory::DeviceBuffer;
use crate::load::phases::Phases;
use crate::load::{LinkReport, LoadReport, Loaded};

/// A finished load.
pub struct Done {
    pub elapsed_s: f64,
    pub phases: Phases,
    pub bytes: u64,
    /// Bytes that were read for them, as they lie on disk; of our own loads.
    pub read_bytes: Option<u64>,
    pub path: String,
    pub path_reason: String,
    /// Of our own loads; 0 for others.
    pub chunk_bytes: u64,
    pub threads: usize,
    /// What each link to a GPU carried; of our own loads.
    pub links: Vec<LinkReport>,
    pub bytes_in_place: InPlace,
}

impl Done {
    /// A load by our own loader.
    pub fn ours((loaded, report): (Loaded, LoadReport)) -> Done {
        Done {
            elapsed_s: report.elapsed_s,
            phases: report.phases,
            bytes: report.bytes,
            read_bytes: Some(report.read_bytes),
            path: report.path,
            path_reason: report.path_reason,
            chunk_bytes: report.chunk_bytes,
            threads: report.threads,
            links: report.links,
            bytes_in_place: InPlace::Ours(Box::new(loaded)),
        }
    }
}

/// The bytes of a finished load.
pub enum InPlace {
    Ours(Box<Loaded>),
    /// Tensors by their names.
    Baseline(Vec<(String, Bytes)>),
    /// In the Python process, which hands out digests.
    Python,
}

/// A tensor in memory of its own.
pub enum Bytes {
    Host(Vec<u8>),
    Device(DeviceBuffer),
}

//! What a load of any kind leaves: the figures for its record, and what to verify.

use crate::gpu::memory::DeviceBuffer;
use crate::load::Loaded;
use crate::load::phases::Phases;

/// A finished load.
pub(super) struct Done {
    pub elapsed_s: f64,
    pub phases: Phases,
    pub bytes: u64,
    pub path: String,
    pub path_reason: String,
    pub bytes_in_place: InPlace,
}

/// The bytes of a finished load.
pub(super) enum InPlace {
    Ours(Box<Loaded>),
    /// Tensors by their names.
    Baseline(Vec<(String, Bytes)>),
    /// In the Python process, which hands out digests.
    Python,
}

/// A tensor in memory of its own.
pub(super) enum Bytes {
    Host(Vec<u8>),
    Device(DeviceBuffer),
}

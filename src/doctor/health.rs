//! Counters of a machine before and after a run, compared.

mod counter;
mod deltas;
/// GPUs and drives.
mod devices;
/// Links.
mod pcie;

pub use deltas::deltas;

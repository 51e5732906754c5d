//! doctor::hardware::health

mod counters;
/// What grew, as checks.
mod deltas;

pub use counters::*;

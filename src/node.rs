//! Facts of a machine, read through a root, so that recorded trees can drive them.

/// Control groups: where their limits stand, and what one leaves of memory.
pub mod cgroup;
/// This machine, or a recorded one.
pub mod source;

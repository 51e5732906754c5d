//! From paths to loads: what lies there, what each file holds, and whose each load is.

/// One result file to loads, whole or damaged.
pub mod file;
/// Where result files lie.
pub mod find;
/// Whose loads these are, and what is known of each machine.
pub mod hosts;
/// Folders that may be of several machines.
pub mod identity;
/// What `qualify` said of a node.
pub mod qualified;
/// One record, and what is wrong with it.
pub mod record;
/// A text to its records, whole or not.
mod split;

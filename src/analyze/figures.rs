//! From the frame of loads to figures.

/// What sets a machine apart.
pub mod difference;
/// Slow, failing and missing nodes.
pub mod fleet;
/// What a group is.
pub mod group;
/// Loads to groups.
pub mod groups;
/// What is found about a node.
pub mod node;
/// These groups against earlier ones.
pub mod regress;
/// Intervals by a seeded bootstrap over runs and turns.
pub mod resample;
/// Speedups, turn by turn.
pub mod turns;

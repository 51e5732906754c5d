//! What every page needs.

/// What every page needs.
pub mod escape;

//! qualify::causes

/// What speaks for each cause.
mod evidence;
mod ranked;

pub use ranked::*;

//! Why a load is slower than its parts allow: likely causes, the likeliest first.

/// What speaks for each cause.
mod evidence;
mod ranked;

pub use ranked::*;

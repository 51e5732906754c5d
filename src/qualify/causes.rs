//! qualify::causes

mod ranked;
/// What speaks for each cause.
mod signs;

pub use ranked::*;

//! Made-up models: the shapes of known ones, with values that look like weights.

pub mod families;
mod model;
pub mod normal;
pub mod values;

pub use model::*;
pub use values::Values;

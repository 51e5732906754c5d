//! origin::synthetic

pub mod families;
mod model;
pub mod normal;
pub mod values;

pub use model::*;
pub use values::Values;

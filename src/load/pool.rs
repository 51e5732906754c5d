//! A pool of host memory that keeps file ranges of checkpoints, least recently used out first. It knows nothing of GPUs or
//! plans: whoever loads asks for the ranges that its plan needs.

/// A load under way, and what it may do next.
pub mod attempt;
/// What its memory is made of.
pub mod chunk;
/// A checkpoint in it.
mod entry;
/// Files, and how they are cut.
pub mod files;
/// Reading what it lacks.
pub mod fill;
/// How a load comes to its ranges.
pub mod lookup;
/// The pool itself.
pub mod memory;
/// What its lock guards.
mod state;

pub use attempt::{Attempt, Claim, Full, Next, Step};
pub use chunk::{Chunk, Make};
pub use files::{Files, Ranges, Spot};
pub use fill::{Deliver, Delivery, FillEngine};
pub use lookup::Lookup;
pub use memory::{Held, Pool, TooLarge, check_room};

//! Saves, exports and indices that are killed, or fail, at each call by which they change a disk: the old checkpoint or the new
//! one, never half of one. The same on file systems that lack what others have.
#![cfg(feature = "cli")]

mod common;
#[path = "crash/faults.rs"]
mod faults;
#[path = "crash/indices.rs"]
mod indices;
#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/lacks.rs"]
mod lacks;
#[path = "crash/order.rs"]
mod order;
#[path = "crash/rig.rs"]
mod rig;

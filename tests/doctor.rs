//! `doctor`, as a user runs it, on machines that were recorded, and on the one that runs the tests.
#![cfg(feature = "cli")]

mod common;
#[path = "doctor/live.rs"]
mod live;
#[path = "doctor/machines.rs"]
mod machines;
#[path = "doctor/trees.rs"]
mod trees;
#[path = "doctor/unproven.rs"]
mod unproven;

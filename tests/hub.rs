//! Fetching from a hub that is an HTTP server of this test, on loopback.
#![cfg(feature = "hub")]

#[path = "hub/choosing.rs"]
mod choosing;
#[path = "hub/downloads.rs"]
mod downloads;
#[path = "hub/refusals.rs"]
mod refusals;
#[path = "hub/rig.rs"]
mod rig;
#[path = "hub/server.rs"]
mod server;

//! The store server as its clients hold it, over made-up GPUs whose memory lies in files.

#![cfg(feature = "serve")]

#[path = "serve/client.rs"]
mod client;
#[path = "serve/faults.rs"]
mod faults;
#[path = "faults/fixture.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod fixture;
#[path = "packed/model.rs"]
mod model;
#[path = "serve/ours.rs"]
mod ours;
#[path = "serve/packed.rs"]
mod packed;
#[path = "serve/rig.rs"]
mod rig;
#[path = "serve/theirs.rs"]
mod theirs;
#[path = "serve/together.rs"]
mod together;

//! The store server as its clients hold it, over made-up GPUs whose memory lies in files.

#![cfg(feature = "serve")]

#[path = "serve/rig.rs"]
mod rig;
#[path = "serve/theirs.rs"]
mod theirs;

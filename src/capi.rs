//! The C ABI: what `ffi/sllm_gds.h` declares. The header says who owns what; a test holds the two against each other.
//!
//! Raw pointers come in and are checked here; what they lead to is the public face, and safe. No panic crosses: each call
//! catches its own, and says so as an error.

mod checkpoint;
mod dlpack;
mod held;
mod loader;
mod model;
mod request;
mod status;
mod strings;

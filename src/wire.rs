//! What goes between the store server and its clients: messages, and device memory by handle.

/// Memory on the GPUs of this machine.
mod cuda;
/// Device memory that one process hands to another.
pub mod devices;
/// Devices for tests without a GPU.
pub mod fake;
/// Where tensors lie in memory that they were packed into.
pub mod layout;
/// What both interfaces say.
pub mod messages;

pub use cuda::Gpus;
#[cfg(feature = "serve")]
pub use messages::storage;
pub use messages::v1;

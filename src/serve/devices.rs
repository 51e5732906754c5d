//! Memory of clients: opened by the handle that they sent, written to by a load, and closed whatever happens.

use crate::gpu::ipc::Handle;
use crate::load::Memory;
use crate::serve::refusal::Refusal;

/// Where clients have memory: the GPUs of this machine, or, in tests, files.
pub trait Devices: Send + Sync + 'static {
    /// The UUIDs of all, lower case, without `GPU-`. Why there are none, in words.
    fn list(&self) -> Result<Vec<String>, String>;

    /// Opens a client's memory on one of them.
    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Refusal>;
}

/// A client's memory, open in this process until it is dropped.
pub trait Window: Send + Sync {
    /// How the device is called.
    fn label(&self) -> String;

    /// All of it, for a load that ends before this is dropped.
    fn memory(&self) -> Memory;

    /// How long it is.
    fn bytes(&self) -> u64;

    /// Sets `bytes` bytes from `offset` on to `value`. Why not, in words.
    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String>;
}

/// A UUID as the clients write it: lower case, without `GPU-`.
pub fn plain_uuid(uuid: &str) -> String {
    let uuid = uuid.to_ascii_lowercase();
    uuid.strip_prefix("gpu-").map_or(uuid.clone(), str::to_string)
}

//! Device memory that one process hands to another by a handle: made here and sent, or received and opened here.

use crate::gpu::ipc::Handle;
use crate::load::{Device, Memory};
use crate::os::error::Error;

/// Where processes have such memory: the GPUs of this machine, or, in tests, files.
pub trait Devices: Send + Sync + 'static {
    /// The UUIDs of all, lower case, without `GPU-`, by their index. Why there are none, in words.
    fn list(&self) -> Result<Vec<String>, String>;

    /// Opens another process's memory on one of them.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: this process does not see that device.
    /// - [`Error::Refused`]: the handle is none, or its memory is gone.
    /// - [`Error::Cuda`]: the driver does not work any more.
    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Error>;

    /// Makes memory on one of them, whose first byte is aligned to 4 KiB.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: this process does not see that device.
    /// - [`Error::OutOfMemory`]: it has too little left.
    /// - [`Error::Cuda`]: the driver refused.
    fn make(&self, uuid: &str, bytes: u64) -> Result<Box<dyn Own>, Error>;
}

/// Memory on a device that this process may write to until it is dropped.
pub trait Window: Send + Sync {
    /// How the device is called.
    fn label(&self) -> String;

    /// Where it lies, as loads count devices.
    fn device(&self) -> Device;

    /// The address of its first byte, there.
    fn address(&self) -> u64;

    /// How long it is.
    fn bytes(&self) -> u64;

    /// Sets `bytes` bytes from `offset` on to `value`. Why not, in words.
    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String>;

    /// Copies `out.len()` bytes from `offset` on to the host.
    ///
    /// # Errors
    /// - [`Error::Refused`]: they go past its end.
    /// - [`Error::Cuda`]: the copy failed.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;
}

impl dyn Window + '_ {
    /// All of it, for a load that ends before this is dropped.
    pub fn memory(&self) -> Memory {
        // SAFETY: the memory is there as long as `self`, and the caller's load ends before that. It was made or sent to be written
        // to, and Rust sees none of its bytes.
        unsafe { Memory::new(self.device(), self.address(), self.bytes()) }
    }

    /// Refuses a range that goes past its end.
    pub fn check(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(Error::Refused(format!(
                "{bytes} bytes at byte {offset} of memory on GPU {} go past its end: it has {} bytes",
                self.label(),
                self.bytes()
            ))),
        }
    }
}

/// Memory that this process made.
pub trait Own: Window {
    /// For another process, which may have it open as long as this lives.
    ///
    /// # Errors
    /// - [`Error::Cuda`]: the driver refused.
    fn handle(&self) -> Result<Handle, Error>;

    /// As memory to be written to.
    fn window(&self) -> &dyn Window;
}

/// A UUID as the clients write it: lower case, without `GPU-`.
pub fn plain_uuid(uuid: &str) -> String {
    let uuid = uuid.to_ascii_lowercase();
    uuid.strip_prefix("gpu-").map_or(uuid.clone(), str::to_string)
}

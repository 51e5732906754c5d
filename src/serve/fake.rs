//! Devices for tests without a GPU: a client's memory is a file, its handle the file's name. Like CUDA's, a mapping outlives
//! the process that made the memory, and is counted until it is closed.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use tonic::Code;

use crate::gpu::ipc::{HANDLE_BYTES, Handle};
use crate::load::{Device, Memory};
use crate::serve::devices::{Devices, Window};
use crate::serve::refusal::Refusal;

/// Made-up GPUs whose memory lies in files of one directory.
pub struct FakeDevices {
    dir: PathBuf,
    uuids: Vec<String>,
    open: Arc<AtomicUsize>,
}

impl FakeDevices {
    /// GPUs of these UUIDs, with memory in this directory.
    pub fn new(dir: PathBuf, uuids: Vec<String>) -> FakeDevices {
        FakeDevices { dir, uuids, open: Arc::default() }
    }

    /// How many of clients' memories are open at the moment; to be kept and asked while a server runs.
    pub fn open_windows(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }
}

/// The handle of the file of this name, if that is short enough.
pub fn handle_of(name: &str) -> Option<Handle> {
    let mut handle = [0; HANDLE_BYTES];
    handle.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some(handle)
}

impl Devices for FakeDevices {
    fn list(&self) -> Result<Vec<String>, String> {
        Ok(self.uuids.clone())
    }

    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Refusal> {
        if !self.uuids.iter().any(|known| known == uuid) {
            let why = format!("the server does not see the GPU '{uuid}', only {}", self.uuids.join(", "));
            return Err(Refusal::new(Code::FailedPrecondition, why));
        }
        let junk = || Refusal::invalid("open another process's memory: the handle is none");
        let name = std::str::from_utf8(handle).map_err(|_| junk())?.trim_end_matches('\0');
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(junk());
        }
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name)).map_err(|_| junk())?;
        let map = MmapOptions::new().map_raw(&file).map_err(|_| junk())?;
        self.open.fetch_add(1, Ordering::SeqCst);
        let label = self.uuids.iter().position(|known| known == uuid).unwrap_or(0).to_string();
        Ok(Box::new(Mapped { map, label, open: self.open.clone() }))
    }
}

struct Mapped {
    map: MmapRaw,
    label: String,
    open: Arc<AtomicUsize>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Window for Mapped {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn memory(&self) -> Memory {
        // SAFETY: the mapping is there as long as `self`, and the caller's load ends before that. Nobody in this process has a
        // reference to its bytes.
        unsafe { Memory::new(Device::Host, self.map.as_mut_ptr() as u64, self.map.len() as u64) }
    }

    fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes()) {
            return Err(format!("{bytes} bytes at {offset} go past its end"));
        }
        // SAFETY: the range lies within the mapping, which is writable, and no load writes to it any more.
        unsafe { self.map.as_mut_ptr().add(offset as usize).write_bytes(value, bytes as usize) };
        Ok(())
    }
}

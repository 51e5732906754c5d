//! Devices for tests without a GPU: a client's memory is a file, its handle the file's name. Like CUDA's, a mapping outlives
//! the process that made the memory, and is counted until it is closed.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gpu::ipc::{HANDLE_BYTES, Handle};
use crate::load::Device;
use crate::os::error::Error;
use crate::wire::devices::{Devices, Own, Window};
use memmap2::{MmapOptions, MmapRaw};

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

impl FakeDevices {
    fn index(&self, uuid: &str) -> Result<usize, Error> {
        self.uuids.iter().position(|known| known == uuid).ok_or_else(|| {
            let all = self.uuids.join(", ");
            Error::NotFound(format!("this process does not see the GPU '{uuid}', only {all}"))
        })
    }

    fn map(&self, name: &str, index: usize) -> Result<Mapped, Error> {
        let no_handle = |_| {
            Error::Refused("open another process's memory: the handle is none, or its memory is gone".into())
        };
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name)).map_err(no_handle)?;
        let map = MmapOptions::new().map_raw(&file).map_err(no_handle)?;
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(Mapped { map, label: index.to_string(), open: self.open.clone() })
    }
}

impl Devices for FakeDevices {
    fn list(&self) -> Result<Vec<String>, String> {
        Ok(self.uuids.clone())
    }

    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Error> {
        let index = self.index(uuid)?;
        let name = std::str::from_utf8(handle).unwrap_or_default().trim_end_matches('\0');
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Error::Refused("open another process's memory: the handle is none".into()));
        }
        Ok(Box::new(self.map(name, index)?))
    }

    fn make(&self, uuid: &str, bytes: u64) -> Result<Box<dyn Own>, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let index = self.index(uuid)?;
        let name = format!("own_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.join(&name);
        let failed =
            |error: std::io::Error| Error::Cuda(format!("make memory at {}: {error}", path.display()));
        let file = fs::File::create_new(&path).map_err(failed)?;
        // Nothing can be mapped of an empty file.
        file.set_len(bytes.max(1)).map_err(failed)?;
        let mapped = self.map(&name, index);
        match mapped {
            Ok(mapped) => Ok(Box::new(Made { mapped, name, path, bytes })),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
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

    fn device(&self) -> Device {
        Device::Host
    }

    fn address(&self) -> u64 {
        self.map.as_mut_ptr() as u64
    }

    fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        (self as &dyn Window).check(offset, bytes).map_err(|error| error.to_string())?;
        // SAFETY: the range lies within the mapping, which is writable, and no load writes to it any more.
        unsafe { self.map.as_mut_ptr().add(offset as usize).write_bytes(value, bytes as usize) };
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        (self as &dyn Window).check(offset, out.len() as u64)?;
        // SAFETY: the range lies within the mapping, and `out` is memory of the caller's own.
        unsafe { self.map.as_mut_ptr().add(offset as usize).copy_to(out.as_mut_ptr(), out.len()) };
        Ok(())
    }
}

/// Memory that this process made: its file goes with it, and others' mappings of that stay.
struct Made {
    mapped: Mapped,
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Window for Made {
    fn label(&self) -> String {
        self.mapped.label()
    }

    fn device(&self) -> Device {
        self.mapped.device()
    }

    fn address(&self) -> u64 {
        self.mapped.address()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        self.mapped.fill(offset, bytes, value)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.mapped.read(offset, out)
    }
}

impl Own for Made {
    fn handle(&self) -> Result<Handle, Error> {
        handle_of(&self.name).ok_or_else(|| Error::Cuda("a name that is too long for a handle".into()))
    }

    fn window(&self) -> &dyn Window {
        self
    }
}

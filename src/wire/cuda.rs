//! The GPUs of this machine, and memory on them that goes from process to process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::gpu::ipc::{Handle, Imported, handle_of};
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{self, Gpu, GpuError};
use crate::load::Device;
use crate::os::error::Error;
use crate::wire::devices::{Devices, Own, Window, plain_uuid};

/// Smaller allocations share pages with others and need not begin where their handle does.
const LEAST_BYTES: u64 = 2 << 20;

/// The GPUs that this process sees. A context is made on one when its memory is wanted first.
#[derive(Default)]
pub struct Gpus {
    opened: Mutex<HashMap<String, Arc<Gpu>>>,
}

impl Gpus {
    fn gpu(&self, uuid: &str) -> Result<Arc<Gpu>, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(gpu) = opened.get(uuid) {
            return Ok(gpu.clone());
        }
        let known = gpu::devices().map_err(Error::NotFound)?;
        let Some(device) = known.iter().find(|device| plain_uuid(&device.uuid) == uuid) else {
            let all: Vec<&str> = known.iter().map(|device| device.uuid.as_str()).collect();
            return Err(Error::NotFound(format!(
                "this process does not see the GPU '{uuid}', only {}: start it with all GPUs visible (CUDA_VISIBLE_DEVICES, the \
                 container's devices)",
                all.join(", ")
            )));
        };
        let gpu = gpu::open(&[device.index.to_string()]).map_err(Error::Cuda)?.swap_remove(0);
        opened.insert(uuid.to_string(), gpu.clone());
        Ok(gpu)
    }
}

impl Devices for Gpus {
    fn list(&self) -> Result<Vec<String>, String> {
        Ok(gpu::devices()?.iter().map(|device| plain_uuid(&device.uuid)).collect())
    }

    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Error> {
        let gpu = self.gpu(uuid)?;
        match Imported::open(&gpu, handle) {
            Ok(imported) => Ok(Box::new(Opened(imported))),
            Err(error) if error.breaks_context() => Err(Error::Cuda(error.to_string())),
            Err(error) => Err(Error::Refused(error.to_string())),
        }
    }

    fn make(&self, uuid: &str, bytes: u64) -> Result<Box<dyn Own>, Error> {
        let gpu = self.gpu(uuid)?;
        let buffer = DeviceBuffer::new(&gpu, bytes.max(LEAST_BYTES)).map_err(failed)?;
        Ok(Box::new(Made { buffer, bytes }))
    }
}

fn failed(error: GpuError) -> Error {
    anyhow::Error::from(error).into()
}

struct Opened(Imported);

impl Window for Opened {
    fn label(&self) -> String {
        self.0.gpu().index.to_string()
    }

    fn device(&self) -> Device {
        Device::Gpu(self.0.gpu().index)
    }

    fn address(&self) -> u64 {
        self.0.address()
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        self.0.fill(offset, bytes, value).map_err(|error| error.to_string())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        (self as &dyn Window).check(offset, out.len() as u64)?;
        self.0.read(offset, out).map_err(failed)
    }
}

/// Memory of this process; `bytes` of it were asked for.
struct Made {
    buffer: DeviceBuffer,
    bytes: u64,
}

impl Window for Made {
    fn label(&self) -> String {
        self.buffer.gpu().index.to_string()
    }

    fn device(&self) -> Device {
        Device::Gpu(self.buffer.gpu().index)
    }

    fn address(&self) -> u64 {
        self.buffer.address()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        (self as &dyn Window).check(offset, bytes).map_err(|error| error.to_string())?;
        self.buffer.fill(offset, bytes, value).map_err(|error| error.to_string())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        (self as &dyn Window).check(offset, out.len() as u64)?;
        self.buffer.read(offset, out).map_err(failed)
    }
}

impl Own for Made {
    fn handle(&self) -> Result<Handle, Error> {
        handle_of(&self.buffer).map_err(failed)
    }

    fn window(&self) -> &dyn Window {
        self
    }
}

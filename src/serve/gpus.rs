//! The GPUs of this machine, and clients' memory on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tonic::Code;

use crate::gpu::ipc::{Handle, Imported};
use crate::gpu::{self, Gpu};
use crate::load::{Device, Memory};
use crate::serve::devices::{Devices, Window, plain_uuid};
use crate::serve::refusal::Refusal;

/// The GPUs that this process sees. A context is made on one when the first client has memory there.
#[derive(Default)]
pub struct Gpus {
    opened: Mutex<HashMap<String, Arc<Gpu>>>,
}

impl Gpus {
    fn gpu(&self, uuid: &str) -> Result<Arc<Gpu>, Refusal> {
        let mut opened = self.opened.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(gpu) = opened.get(uuid) {
            return Ok(gpu.clone());
        }
        let known = gpu::devices().map_err(|why| Refusal::new(Code::FailedPrecondition, why))?;
        let Some(device) = known.iter().find(|device| plain_uuid(&device.uuid) == uuid) else {
            let all: Vec<&str> = known.iter().map(|device| device.uuid.as_str()).collect();
            return Err(Refusal::new(
                Code::FailedPrecondition,
                format!(
                    "the server does not see the GPU '{uuid}', only {}: start it with all GPUs visible (CUDA_VISIBLE_DEVICES, \
                     the container's devices)",
                    all.join(", ")
                ),
            ));
        };
        let gpu = gpu::open(&[device.index.to_string()])
            .map_err(|why| Refusal::new(Code::Internal, why))?
            .swap_remove(0);
        opened.insert(uuid.to_string(), gpu.clone());
        Ok(gpu)
    }
}

impl Devices for Gpus {
    fn list(&self) -> Result<Vec<String>, String> {
        Ok(gpu::devices()?.iter().map(|device| plain_uuid(&device.uuid)).collect())
    }

    fn open(&self, uuid: &str, handle: &Handle) -> Result<Box<dyn Window>, Refusal> {
        let gpu = self.gpu(uuid)?;
        match Imported::open(&gpu, handle) {
            Ok(imported) => Ok(Box::new(Opened(imported))),
            Err(error) if error.breaks_context() => Err(Refusal::new(Code::Internal, error.to_string())),
            Err(error) => Err(Refusal::invalid(error.to_string())),
        }
    }
}

struct Opened(Imported);

impl Window for Opened {
    fn label(&self) -> String {
        self.0.gpu().index.to_string()
    }

    fn memory(&self) -> Memory {
        // SAFETY: the mapping is open as long as `self`, and the caller's load ends before that. The client sent its handle so
        // that it be written to, and Rust sees none of its bytes.
        unsafe { Memory::new(Device::Gpu(self.0.gpu().index), self.0.address(), self.0.bytes()) }
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn fill(&self, offset: u64, bytes: u64, value: u8) -> Result<(), String> {
        self.0.fill(offset, bytes, value).map_err(|error| error.to_string())
    }
}

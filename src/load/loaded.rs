//! A checkpoint in memory: where it was to go, and where each tensor is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::gpu::Gpu;
use crate::gpu::memory::DeviceBuffer;
use crate::load::parts::Part;
use crate::load::plan::Plan;
use crate::os::digest::Digest;
use crate::os::memory::HostBuffer;

/// Where to load to.
#[derive(Clone)]
pub enum Destination {
    Host,
    /// One destination each; the same GPU may stand twice.
    Gpus(Vec<Arc<Gpu>>, Placement),
}

/// How several GPUs share a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Group by group where it was saved with as many, else cut by bytes at module boundaries.
    #[default]
    Balanced,
    /// Everything to each: read once, copied to all.
    Replicate,
}

impl Destination {
    /// `["host"]`, or the GPUs as the user named them.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Destination::Host => vec!["host".into()],
            Destination::Gpus(gpus, _) => gpus.iter().map(|g| g.label.clone()).collect(),
        }
    }
}

/// Memory of one destination.
pub enum Buffer {
    Host(HostBuffer),
    Device(DeviceBuffer),
}

impl Buffer {
    /// Its host memory, if it is that.
    pub fn host(&self) -> Option<&HostBuffer> {
        match self {
            Buffer::Host(host) => Some(host),
            Buffer::Device(_) => None,
        }
    }

    /// As [`Buffer::host`].
    pub fn host_mut(&mut self) -> Option<&mut HostBuffer> {
        match self {
            Buffer::Host(host) => Some(host),
            Buffer::Device(_) => None,
        }
    }
}

/// A checkpoint in memory. Tensors are views: name, type, shape from the checkpoint, place from the plan.
pub struct Loaded {
    pub checkpoint: Arc<Checkpoint>,
    pub plan: Plan,
    /// One for each destination of the plan; of a replicated load, one for each GPU, all alike.
    pub buffers: Vec<Buffer>,
    /// What was delivered, where that is not each tensor of the checkpoint whole.
    pub parts: Option<Arc<[Part]>>,
    /// Digests that were made as the bytes were read, by tensor name.
    pub read: Option<BTreeMap<String, Digest>>,
}

/// A loaded tensor: where it lies, and what it is.
pub struct View<'a> {
    pub tensor: &'a Tensor,
    pub buffer: &'a Buffer,
    /// From the buffer's first byte.
    pub offset: u64,
}

impl<'a> View<'a> {
    /// Its address on the device, or `None` in host memory.
    pub fn device_address(&self) -> Option<u64> {
        match self.buffer {
            Buffer::Host(_) => None,
            Buffer::Device(device) => Some(device.address() + self.offset),
        }
    }

    /// Its bytes, or `None` on a device.
    pub fn host_bytes(&self) -> Option<&'a [u8]> {
        match self.buffer {
            Buffer::Host(host) => {
                Some(&host.as_slice()[self.offset as usize..][..self.tensor.bytes as usize])
            }
            Buffer::Device(_) => None,
        }
    }
}

impl Loaded {
    /// Each tensor of a checkpoint, whole.
    pub fn whole(checkpoint: Arc<Checkpoint>, plan: Plan, buffers: Vec<Buffer>) -> Loaded {
        Loaded { checkpoint, plan, buffers, parts: None, read: None }
    }

    /// Whether each buffer holds the whole checkpoint.
    pub fn is_replicated(&self) -> bool {
        self.plan.destination_bytes.len() < self.buffers.len()
    }

    /// How many tensors it has.
    pub fn len(&self) -> usize {
        self.parts.as_ref().map_or(self.checkpoint.tensors.len(), |parts| parts.len())
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its tensor number `index`, as it was delivered.
    pub fn tensor(&self, index: usize) -> &Tensor {
        match &self.parts {
            Some(parts) => &parts[index].tensor,
            None => &self.checkpoint.tensors[index],
        }
    }

    /// Its tensor number `index`; of a replicated load, in `copy`.
    pub fn view(&self, index: usize, copy: usize) -> View<'_> {
        let place = self.plan.places[index];
        let buffer = if self.is_replicated() { copy } else { place.destination };
        View { tensor: self.tensor(index), buffer: &self.buffers[buffer], offset: place.offset }
    }
}

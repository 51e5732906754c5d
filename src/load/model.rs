//! A loaded model: its tensors by name.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use crate::checkpoint::DType;
use crate::load::loaded::{Buffer, Loaded};
use crate::load::report::LoadReport;
use crate::load::verify;
use crate::os::digest::Digest;
use crate::os::error::Error;

/// A checkpoint in memory. Dropped, it frees that memory, unless it is the caller's. It may outlive its loader.
pub struct Model {
    loaded: Loaded,
    /// Made when a name is asked for first: whoever walks all tensors needs none.
    by_name: OnceLock<HashMap<String, usize>>,
    report: LoadReport,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// Host memory.
    Host,
    /// The GPU with this index under CUDA_VISIBLE_DEVICES.
    Gpu(usize),
}

/// One tensor of a model: a view, valid as long as the model.
#[derive(Clone, Copy)]
pub struct Weight<'m> {
    /// As the checkpoint has it.
    pub name: &'m str,
    /// The type of its elements.
    pub dtype: DType,
    /// Elements along each axis; empty for a scalar.
    pub shape: &'m [u64],
    /// Elements from one to the next along each axis.
    pub strides: &'m [u64],
    /// Bytes of its storage.
    pub bytes: u64,
    /// Where it lies.
    pub device: Device,
    /// The address of its first byte there. In memory that the load made on a GPU it is a multiple of 256, whatever the layout.
    /// In host memory no alignment is promised: there the bytes of a file keep their distances, and safetensors files begin
    /// their tensors anywhere. In memory of the caller's it is where the caller put it.
    pub address: u64,
    host: Option<&'m [u8]>,
}

impl fmt::Debug for Weight<'_> {
    /// All but its bytes.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Weight { name, dtype, shape, strides, bytes, device, address, host: _ } = self;
        let mut shown = f.debug_struct("Weight");
        shown.field("name", name).field("dtype", dtype).field("shape", shape).field("strides", strides);
        shown.field("bytes", bytes).field("device", device).field("address", &format_args!("{address:#x}"));
        shown.finish_non_exhaustive()
    }
}

impl<'m> Weight<'m> {
    /// Its bytes, where they lie in host memory; `None` of one on a GPU ([`Model::read`] copies that).
    pub fn host_bytes(&self) -> Option<&'m [u8]> {
        self.host
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut shown = f.debug_struct("Model");
        shown.field("dir", &self.loaded.checkpoint.dir).field("tensors", &self.len());
        shown.field("path", &self.report.path).finish_non_exhaustive()
    }
}

impl Model {
    pub(super) fn new(loaded: Loaded, report: LoadReport) -> Model {
        Model { loaded, by_name: OnceLock::new(), report }
    }

    fn by_name(&self) -> &HashMap<String, usize> {
        let names = || (0..self.loaded.len()).map(|i| (self.loaded.tensor(i).name.clone(), i)).collect();
        self.by_name.get_or_init(names)
    }

    /// How many tensors it has.
    pub fn len(&self) -> usize {
        self.loaded.len()
    }

    /// Whether it has no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// The names of its tensors, in the order in which they lie in the checkpoint.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.loaded.len()).map(|i| self.loaded.tensor(i).name.as_str())
    }

    /// The tensor of this name; of a replicated load, on the first GPU.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is none.
    pub fn get(&self, name: &str) -> Result<Weight<'_>, Error> {
        self.get_copy(name, 0)
    }

    /// The same on the GPU that stands at `copy` in [`To::Replicate`](crate::To::Replicate); of every other load there is copy 0.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no tensor of this name, or no such copy.
    pub fn get_copy(&self, name: &str, copy: usize) -> Result<Weight<'_>, Error> {
        let index = self.by_name().get(name).copied();
        let index = index.ok_or_else(|| {
            Error::NotFound(format!("{} has no tensor '{name}'", self.loaded.checkpoint.dir.display()))
        })?;
        let copies = if self.loaded.is_replicated() { self.loaded.buffers.len() } else { 1 };
        if copy >= copies {
            return Err(Error::NotFound(format!(
                "there is no copy {copy} of '{name}': the load made {copies}"
            )));
        }
        Ok(self.weight(index, copy))
    }

    /// Its tensors, in the order of [`Model::names`]; of a replicated load, on the first GPU.
    pub fn weights(&self) -> impl Iterator<Item = Weight<'_>> {
        (0..self.len()).map(|index| self.weight(index, 0))
    }

    fn weight(&self, index: usize, copy: usize) -> Weight<'_> {
        let view = self.loaded.view(index, copy);
        let host = view.host_bytes();
        let (device, address) = match view.buffer {
            Buffer::Host(_) => (Device::Host, host.map_or(0, |bytes| bytes.as_ptr() as u64)),
            Buffer::Device(buffer) => (Device::Gpu(buffer.gpu().index), buffer.address() + view.offset),
        };
        let tensor = view.tensor;
        Weight {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            strides: &tensor.stride,
            bytes: tensor.bytes,
            device,
            address,
            host,
        }
    }

    /// Copies a tensor's bytes to the host, wherever it lies; of a replicated load, from the first GPU. `out` is exactly as long.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: there is no tensor of this name.
    /// - [`Error::Refused`]: `out` is longer or shorter than the tensor.
    /// - [`Error::Cuda`]: the copy failed.
    pub fn read(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let weight = self.get(name)?;
        if out.len() as u64 != weight.bytes {
            let have = out.len();
            return Err(Error::Refused(format!(
                "'{name}' has {} bytes, and there is room for {have}",
                weight.bytes
            )));
        }
        match weight.host {
            Some(bytes) => out.copy_from_slice(bytes),
            None => {
                let view = self.loaded.view(self.by_name()[name], 0);
                if let Buffer::Device(buffer) = view.buffer {
                    buffer.read(view.offset, out).map_err(anyhow::Error::from)?;
                }
            }
        }
        Ok(())
    }

    /// The digests of some tensors, by their numbers in the order of [`Model::names`], made where they lie.
    #[doc(hidden)]
    pub fn digests(&self, numbers: &[usize]) -> Result<Vec<Digest>, Error> {
        Ok(verify::digests(&self.loaded, numbers)?)
    }

    /// How fast it was loaded, by which path, and why by that.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }
}

//! A model in memory: its tensors by name.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::checkpoint::DType;
use crate::client::error::ClientError;
use crate::load::Device;
use crate::os::error::Error;
use crate::wire::devices::Window;
use crate::wire::v1;

/// What a load did, as the server measured it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Bytes delivered.
    pub bytes: u64,
    /// Bytes that the load read for them; 0 where the server held them.
    pub read_bytes: u64,
    /// From the call to the last byte in place.
    pub elapsed_s: f64,
    /// `bytes` over `elapsed_s`, in 10^9 bytes a second.
    pub gb_per_s: f64,
    /// The path that the bytes took, such as `pool`.
    pub path: String,
    /// Why that one, in words.
    pub path_reason: String,
}

impl From<v1::LoadReport> for Report {
    fn from(report: v1::LoadReport) -> Report {
        let v1::LoadReport { bytes, read_bytes, elapsed_s, gb_per_s, path, path_reason } = report;
        Report { bytes, read_bytes, elapsed_s, gb_per_s, path, path_reason }
    }
}

/// A model in device memory. Dropped, it gives that memory back.
pub struct ServedModel {
    memory: Box<dyn Window>,
    tensors: Vec<Placed>,
    by_name: HashMap<String, usize>,
    report: Report,
}

/// A tensor, and where in the memory it lies.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
    pub bytes: u64,
    pub place: u64,
}

impl Placed {
    /// What a server says of a tensor that lies at `place` of a memory with so many bytes.
    pub fn new(tensor: v1::Tensor, place: u64, memory_bytes: u64) -> Result<Placed, ClientError> {
        let v1::Tensor { name, dtype, shape, strides, offset: _, bytes } = tensor;
        let dtype = DType::from_safetensors(&dtype).ok_or_else(|| {
            ClientError::Refused(format!(
                "tensor '{name}' is of type {dtype}, which this version does not know: take the server's version here"
            ))
        })?;
        if place.checked_add(bytes).is_none_or(|end| end > memory_bytes) {
            let what = format!("tensor '{name}' has {bytes} bytes at {place} of {memory_bytes}");
            return Err(ClientError::nonsense(&what));
        }
        Ok(Placed { name, dtype, shape, strides, bytes, place })
    }
}

/// One tensor of a model: a view, valid as long as the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedTensor<'m> {
    /// As the model has it.
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
    /// The address of its first byte there: a multiple of 256.
    pub address: u64,
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut shown = f.debug_struct("ServedModel");
        shown.field("tensors", &self.len()).field("path", &self.report.path).finish_non_exhaustive()
    }
}

impl ServedModel {
    pub(super) fn new(memory: Box<dyn Window>, tensors: Vec<Placed>, report: Report) -> ServedModel {
        let by_name = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        ServedModel { memory, tensors, by_name, report }
    }

    /// How many tensors it has.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The names of its tensors, in the order in which they lie in the model's files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`ClientError::NotFound`]: there is none.
    pub fn get(&self, name: &str) -> Result<ServedTensor<'_>, ClientError> {
        let not_found = || ClientError::NotFound(format!("the model has no tensor '{name}'"));
        self.by_name.get(name).map(|number| self.tensor(*number)).ok_or_else(not_found)
    }

    /// Its tensors, in the order of [`ServedModel::names`].
    pub fn tensors(&self) -> impl Iterator<Item = ServedTensor<'_>> {
        (0..self.len()).map(|number| self.tensor(number))
    }

    fn tensor(&self, number: usize) -> ServedTensor<'_> {
        let Placed { name, dtype, shape, strides, bytes, place } = &self.tensors[number];
        ServedTensor {
            name,
            dtype: *dtype,
            shape,
            strides,
            bytes: *bytes,
            device: self.memory.device(),
            address: self.memory.address() + place,
        }
    }

    /// Copies a tensor's bytes to the host. `out` is exactly as long.
    ///
    /// # Errors
    /// - [`ClientError::NotFound`]: there is no tensor of this name.
    /// - [`ClientError::Refused`]: `out` is longer or shorter than the tensor.
    /// - [`ClientError::Here`]: the copy failed.
    pub fn read(&self, name: &str, out: &mut [u8]) -> Result<(), ClientError> {
        let tensor = self.get(name)?;
        if out.len() as u64 != tensor.bytes {
            let (bytes, have) = (tensor.bytes, out.len());
            return Err(ClientError::Refused(format!(
                "'{name}' has {bytes} bytes, and there is room for {have}"
            )));
        }
        self.memory.read(tensor.address - self.memory.address(), out).map_err(Error::into)
    }

    /// How it came here.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

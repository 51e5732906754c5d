//! Tensors in memory of the loader's own, handed on by DLPack (<https://dmlc.github.io/dlpack/latest/>).

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use sllm_gds::client::ServedModel;
use sllm_gds::{DType, Device, Model};

use crate::error::{raise, raise_client, refused};

#[repr(C)]
struct DLDevice {
    device_type: i32,
    device_id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: i32,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DLManagedTensor {
    dl_tensor: DLTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

#[repr(C)]
struct DLManagedTensorVersioned {
    version: [u32; 2],
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    flags: u64,
    dl_tensor: DLTensor,
}

const CPU: i32 = 1;
const CUDA: i32 = 2;
/// The version whose layout this is.
const VERSION: [u32; 2] = [1, 0];

/// One tensor of a load; the memory of the load lives as long as any of its tensors, or of what was made of them.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct OwnTensor {
    memory: Arc<Memory>,
    name: String,
}

/// What the tensors of a load lie in.
pub enum Memory {
    /// Of a loader.
    Loaded(Box<Model>),
    /// Of a store server's client.
    Served(Box<ServedModel>),
}

/// What DLPack asks of a tensor.
struct View<'m> {
    dtype: DType,
    shape: &'m [u64],
    strides: &'m [u64],
    bytes: u64,
    device: Device,
    address: u64,
}

impl Memory {
    fn view(&self, py: Python<'_>, name: &str) -> PyResult<View<'_>> {
        match self {
            Memory::Loaded(model) => {
                let found = model.get(name).map_err(|error| raise(py, error))?;
                let (dtype, shape, strides) = (found.dtype, found.shape, found.strides);
                Ok(View {
                    dtype,
                    shape,
                    strides,
                    bytes: found.bytes,
                    device: found.device,
                    address: found.address,
                })
            }
            Memory::Served(model) => {
                let found = model.get(name).map_err(|error| raise_client(py, error))?;
                let (dtype, shape, strides) = (found.dtype, found.shape, found.strides);
                Ok(View {
                    dtype,
                    shape,
                    strides,
                    bytes: found.bytes,
                    device: found.device,
                    address: found.address,
                })
            }
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Memory::Loaded(model) => model.names().map(String::from).collect(),
            Memory::Served(model) => model.names().map(String::from).collect(),
        }
    }
}

/// What a capsule keeps: the memory, and what DLPack points to.
struct Kept {
    _memory: Arc<Memory>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl OwnTensor {
    /// All tensors that lie in a memory, by name.
    pub fn all(memory: Memory) -> Vec<(String, OwnTensor)> {
        let memory = Arc::new(memory);
        let tensor = |name: String| (name.clone(), OwnTensor { memory: memory.clone(), name });
        memory.names().into_iter().map(tensor).collect()
    }

    fn tensor(&self, py: Python<'_>) -> PyResult<(DLTensor, Kept)> {
        let weight = self.memory.view(py, &self.name)?;
        let (dtype, halves) = crossing(weight.dtype).ok_or_else(|| {
            let dtype = weight.dtype.safetensors_name();
            PyBufferError::new_err(format!("DLPack has no type for {dtype}, the type of '{}'", self.name))
        })?;
        let extent = |n: &u64| i64::try_from(*n).unwrap_or(i64::MAX);
        let mut shape: Vec<i64> = weight.shape.iter().map(extent).collect();
        let mut strides: Vec<i64> = weight.strides.iter().map(extent).collect();
        if halves {
            // Two elements to a byte, as torch counts them.
            let axes = strides.len().saturating_sub(1);
            strides[..axes].iter_mut().for_each(|stride| *stride /= 2);
            shape.last_mut().into_iter().for_each(|last| *last /= 2);
        }
        let mut kept = Kept { _memory: self.memory.clone(), shape, strides };
        let (device_type, device_id) = place(weight.device);
        let tensor = DLTensor {
            data: weight.address as *mut c_void,
            device: DLDevice { device_type, device_id },
            ndim: kept.shape.len() as i32,
            dtype,
            shape: kept.shape.as_mut_ptr(),
            strides: kept.strides.as_mut_ptr(),
            byte_offset: 0,
        };
        Ok((tensor, kept))
    }
}

#[pymethods]
impl OwnTensor {
    /// safetensors' name of its type.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.memory.view(py, &self.name)?.dtype.safetensors_name())
    }

    #[getter]
    fn shape(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        Ok(self.memory.view(py, &self.name)?.shape.to_vec())
    }

    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.memory.view(py, &self.name)?.bytes)
    }

    /// DLPack's device type and number.
    fn __dlpack_device__(&self, py: Python<'_>) -> PyResult<(i32, i32)> {
        Ok(place(self.memory.view(py, &self.name)?.device))
    }

    /// A capsule: versioned where `max_version` is 1.0 or later. All copies have ended, so that no stream need wait.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        let (tensor, kept) = self.tensor(py)?;
        if dl_device.is_some_and(|wanted| wanted != (tensor.device.device_type, tensor.device.device_id)) {
            return Err(PyBufferError::new_err("it lies on another device: load it to that one"));
        }
        if copy == Some(true) {
            return Err(refused(py, "it is handed on as it lies, never copied: copy what you make of it"));
        }
        match max_version.is_some_and(|(major, _)| major >= 1) {
            true => versioned(py, tensor, kept),
            false => unversioned(py, tensor, kept),
        }
    }
}

fn place(device: Device) -> (i32, i32) {
    match device {
        Device::Gpu(index) => (CUDA, index as i32),
        _ => (CPU, 0),
    }
}

/// How a type crosses, and whether two elements share a byte. What DLPack's readers do not know goes as bytes.
fn crossing(dtype: DType) -> Option<(DLDataType, bool)> {
    let (code, bits, halves) = match dtype {
        DType::F4 => (1, 8, true),
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => {
            (1, 8, false)
        }
        DType::BOOL => (6, 8, false),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => (1, dtype.bits(), false),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => (0, dtype.bits(), false),
        DType::F16 | DType::F32 | DType::F64 => (2, dtype.bits(), false),
        DType::BF16 => (4, 16, false),
        DType::C64 => (5, 64, false),
        _ => return None,
    };
    Some((DLDataType { code, bits: bits as u8, lanes: 1 }, halves))
}

const OLD: &CStr = c"dltensor";
const NEW: &CStr = c"dltensor_versioned";

fn unversioned(py: Python<'_>, dl_tensor: DLTensor, kept: Kept) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn delete(managed: *mut DLManagedTensor) {
        // SAFETY: made by `Box::into_raw` below, and deleted once, by its reader or by its capsule.
        let managed = unsafe { Box::from_raw(managed) };
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(managed.manager_ctx as *mut Kept) });
    }
    unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
        // SAFETY: Python calls it with the capsule, whose name a reader changes when it takes the tensor over.
        unsafe {
            if ffi::PyCapsule_IsValid(capsule, OLD.as_ptr()) == 1 {
                delete(ffi::PyCapsule_GetPointer(capsule, OLD.as_ptr()).cast());
            }
        }
    }
    let manager_ctx = Box::into_raw(Box::new(kept)).cast();
    let managed = Box::new(DLManagedTensor { dl_tensor, manager_ctx, deleter: Some(delete) });
    capsule(py, Box::into_raw(managed).cast(), OLD, destroy)
}

fn versioned(py: Python<'_>, dl_tensor: DLTensor, kept: Kept) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn delete(managed: *mut DLManagedTensorVersioned) {
        // SAFETY: made by `Box::into_raw` below, and deleted once, by its reader or by its capsule.
        let managed = unsafe { Box::from_raw(managed) };
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(managed.manager_ctx as *mut Kept) });
    }
    unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
        // SAFETY: Python calls it with the capsule, whose name a reader changes when it takes the tensor over.
        unsafe {
            if ffi::PyCapsule_IsValid(capsule, NEW.as_ptr()) == 1 {
                delete(ffi::PyCapsule_GetPointer(capsule, NEW.as_ptr()).cast());
            }
        }
    }
    let manager_ctx = Box::into_raw(Box::new(kept)).cast();
    let managed = DLManagedTensorVersioned {
        version: VERSION,
        manager_ctx,
        deleter: Some(delete),
        flags: 0,
        dl_tensor,
    };
    capsule(py, Box::into_raw(Box::new(managed)).cast(), NEW, destroy)
}

fn capsule<'py>(
    py: Python<'py>,
    managed: *mut c_void,
    name: &'static CStr,
    destroy: unsafe extern "C" fn(*mut ffi::PyObject),
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointer is not null, the name lives for ever, and the interpreter's lock is held.
    let raw = unsafe { ffi::PyCapsule_New(managed, name.as_ptr(), Some(destroy)) };
    // SAFETY: a new reference, or null with an exception set. What it was to hold leaks where Python has no memory left.
    unsafe { Bound::from_owned_ptr_or_err(py, raw) }
}

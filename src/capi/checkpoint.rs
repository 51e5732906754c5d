//! Checkpoints, and tensors as they are described.

use std::ffi::{CString, c_char};
use std::ptr;

use crate::capi::status::{Failure, invalid, quietly, run, sllm_gds_status};
use crate::capi::strings::{give, given, out, take_back, text};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::os::error::Error;

/// A tensor: what it is and, of a model, where it lies. All pointers are the checkpoint's or model's that it was asked of.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct sllm_gds_tensor {
    pub name: *const c_char,
    /// As safetensors calls it: `BF16`.
    pub dtype: *const c_char,
    pub axes: usize,
    /// Elements along each axis, and from one to the next along it.
    pub shape: *const u64,
    pub strides: *const u64,
    pub bytes: u64,
    /// The index of its GPU, or -1 for host memory; -1 for a tensor of a checkpoint, too.
    pub device: i32,
    /// Of its first byte there; 0 for a tensor of a checkpoint.
    pub address: u64,
}

/// Texts for C, by tensor.
pub(super) struct Texts(Vec<(CString, CString)>);

impl Texts {
    pub(super) fn of<'t>(tensors: impl Iterator<Item = (&'t str, &'t str)>) -> Texts {
        Texts(tensors.map(|(name, dtype)| (out(name), out(dtype))).collect())
    }

    /// The name and type of one tensor.
    pub(super) fn get(&self, index: usize) -> Option<(*const c_char, *const c_char)> {
        self.0.get(index).map(|(name, dtype)| (name.as_ptr(), dtype.as_ptr()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// An opened checkpoint.
#[allow(non_camel_case_types)]
pub struct sllm_gds_checkpoint {
    pub(super) checkpoint: Checkpoint,
    texts: Texts,
}

impl sllm_gds_checkpoint {
    fn describe(&self, index: usize) -> Result<sllm_gds_tensor, Failure> {
        let (Some(tensor), Some((name, dtype))) =
            (self.checkpoint.tensors().get(index), self.texts.get(index))
        else {
            return invalid(format!("there is no tensor {index}: the checkpoint has {}", self.texts.len()));
        };
        let Tensor { shape, stride, bytes, .. } = tensor;
        let (shape, strides) = (shape.as_slice(), stride.as_slice());
        Ok(sllm_gds_tensor {
            name,
            dtype,
            axes: shape.len(),
            shape: shape.as_ptr(),
            strides: strides.as_ptr(),
            bytes: *bytes,
            device: -1,
            address: 0,
        })
    }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_checkpoint_open(
    path: *const c_char,
    checkpoint: *mut *mut sllm_gds_checkpoint,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for a text that ends with a zero.
        let Some(path) = (unsafe { text(path, "the path") })? else {
            return invalid("the path is a null pointer");
        };
        let opened = Checkpoint::open(path)?;
        let texts = opened.tensors().iter().map(|t| (t.name.as_str(), t.dtype.safetensors_name()));
        let texts = Texts::of(texts);
        // SAFETY: the header asks for a pointer that may be written to.
        unsafe { give(checkpoint, sllm_gds_checkpoint { checkpoint: opened, texts }) }
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_checkpoint_free(checkpoint: *mut sllm_gds_checkpoint) {
    // SAFETY: the header asks for one that was given out and not freed.
    unsafe { take_back(checkpoint) }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_checkpoint_tensor_count(checkpoint: *const sllm_gds_checkpoint) -> usize {
    // SAFETY: the header asks for one that was given out and not freed, or null.
    quietly(0, || unsafe { checkpoint.as_ref() }.map_or(0, |checkpoint| checkpoint.texts.len()))
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_checkpoint_tensor(
    checkpoint: *const sllm_gds_checkpoint,
    index: usize,
    tensor: *mut sllm_gds_tensor,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for one that was given out and not freed.
        let described = unsafe { given(checkpoint, "the checkpoint") }?.describe(index)?;
        // SAFETY: the header asks for a tensor that may be written to.
        unsafe { write(tensor, described) }
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_checkpoint_find(
    checkpoint: *const sllm_gds_checkpoint,
    name: *const c_char,
    tensor: *mut sllm_gds_tensor,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for one that was given out and not freed, and for a text.
        let (checkpoint, name) = unsafe { (given(checkpoint, "the checkpoint")?, text(name, "the name")?) };
        let Some(name) = name else { return invalid("the name is a null pointer") };
        let found = checkpoint.checkpoint.tensors().iter().position(|tensor| tensor.name == name);
        let index = found.ok_or_else(|| {
            let dir = checkpoint.checkpoint.dir.display();
            Error::NotFound(format!("{dir} has no tensor '{name}'"))
        })?;
        // SAFETY: the header asks for a tensor that may be written to.
        unsafe { write(tensor, checkpoint.describe(index)?) }
    })
}

/// # Safety
/// `to` is null, or may be written to.
pub(super) unsafe fn write(to: *mut sllm_gds_tensor, tensor: sllm_gds_tensor) -> Result<(), Failure> {
    if to.is_null() {
        return invalid("the tensor to write to is a null pointer");
    }
    // SAFETY: our own contract.
    unsafe { ptr::write(to, tensor) };
    Ok(())
}

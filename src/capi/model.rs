//! Loaded models.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use crate::capi::checkpoint::{sllm_gds_tensor, write};
use crate::capi::dlpack::{DLManagedTensor, managed};
use crate::capi::held::Held;
use crate::capi::status::{invalid, quietly, run, sllm_gds_status};
use crate::capi::strings::{given, list, take_back, text};
use crate::load::Model;

/// A loaded model.
#[allow(non_camel_case_types)]
pub struct sllm_gds_model(Arc<Held>);

impl sllm_gds_model {
    pub(super) fn new(model: Model) -> sllm_gds_model {
        sllm_gds_model(Arc::new(Held::new(model)))
    }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_free(model: *mut sllm_gds_model) {
    // SAFETY: the header asks for one that was given out and not freed.
    unsafe { take_back(model) }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_tensor_count(model: *const sllm_gds_model) -> usize {
    // SAFETY: the header asks for one that was given out and not freed, or null.
    quietly(0, || unsafe { model.as_ref() }.map_or(0, |model| model.0.texts.len()))
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_tensor(
    model: *const sllm_gds_model,
    index: usize,
    copy: usize,
    tensor: *mut sllm_gds_tensor,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for one that was given out and not freed.
        let model = unsafe { given(model, "the model") }?;
        // SAFETY: the header asks for a tensor that may be written to.
        unsafe { write(tensor, model.0.describe(index, copy)?) }
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_find(
    model: *const sllm_gds_model,
    name: *const c_char,
    copy: usize,
    tensor: *mut sllm_gds_tensor,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for one that was given out and not freed, and for a text.
        let (model, name) = unsafe { (given(model, "the model")?, text(name, "the name")?) };
        let Some(name) = name else { return invalid("the name is a null pointer") };
        let index = model.0.index_of(name)?;
        // SAFETY: the header asks for a tensor that may be written to.
        unsafe { write(tensor, model.0.describe(index, copy)?) }
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_read(
    model: *const sllm_gds_model,
    name: *const c_char,
    to: *mut c_void,
    bytes: u64,
) -> sllm_gds_status {
    run(|| {
        // SAFETY: the header asks for one that was given out and not freed, and for a text.
        let (model, name) = unsafe { (given(model, "the model")?, text(name, "the name")?) };
        let Some(name) = name else { return invalid("the name is a null pointer") };
        let count = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: looked at for null only; nothing is read through it.
        unsafe { list(to.cast_const().cast::<u8>(), count.min(1), "the memory to read into") }?;
        let room = match count {
            0 => &mut [],
            // SAFETY: the header asks for as many bytes that may be written to and that nobody else uses.
            _ => unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), count) },
        };
        Ok(model.0.model.read(name, room)?)
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_report(model: *const sllm_gds_model) -> *const c_char {
    // SAFETY: the header asks for one that was given out and not freed, or null.
    let model = unsafe { model.as_ref() };
    model.map_or(std::ptr::null(), |model| model.0.report.as_ptr())
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_model_dlpack(
    model: *const sllm_gds_model,
    index: usize,
    copy: usize,
    tensor: *mut *mut DLManagedTensor,
) -> sllm_gds_status {
    run(|| {
        if tensor.is_null() {
            return invalid("the pointer for the tensor is null");
        }
        // SAFETY: the header asks for one that was given out and not freed.
        let held = &unsafe { given(model, "the model") }?.0;
        let made = managed(held, &held.weight(index, copy)?)?;
        // SAFETY: the header asks for a pointer that may be written to.
        unsafe { tensor.write(made) };
        Ok(())
    })
}

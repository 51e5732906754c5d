//! Tensors as DLPack (version 0.x, unversioned) passes them: <https://dmlc.github.io/dlpack/latest/c_api.html>.

use std::ffi::c_void;
use std::sync::Arc;

use crate::capi::held::Held;
use crate::capi::status::{Failure, invalid, quietly};
use crate::checkpoint::DType;
use crate::load::Weight;

#[repr(C)]
struct DLDevice {
    device_type: i32,
    device_id: i32,
}

#[repr(C)]
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

/// DLPack's own.
#[repr(C)]
pub struct DLManagedTensor {
    dl_tensor: DLTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

const HOST: i32 = 1;
const CUDA: i32 = 2;

const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;
const BOOL: u8 = 6;
const COMPLEX: u8 = 5;

const BYTES: DLDataType = DLDataType { code: UINT, bits: 8, lanes: 1 };

/// What the tensor that was given out keeps alive.
struct Kept {
    tensor: DLManagedTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
    _model: Arc<Held>,
}

/// A tensor whose memory lives until its deleter is called, whatever becomes of the model.
pub(super) fn managed(model: &Arc<Held>, weight: &Weight<'_>) -> Result<*mut DLManagedTensor, Failure> {
    let (dtype, shape, strides) = match code_of(weight.dtype) {
        Some(code) => {
            let bits = weight.dtype.bits() as u8;
            (DLDataType { code, bits, lanes: 1 }, weight.shape, weight.strides)
        }
        // Floats of 8 bits cross as the bytes that they are, to be viewed on the other side; smaller ones as a row of bytes.
        None if weight.dtype.bits() == 8 => (BYTES, weight.shape, weight.strides),
        None => (BYTES, &[weight.bytes][..], &[1][..]),
    };
    let signed = |of: &[u64]| of.iter().map(|n| i64::try_from(*n)).collect::<Result<Vec<i64>, _>>();
    let (Ok(shape), Ok(strides)) = (signed(shape), signed(strides)) else {
        return invalid(format!("'{}' has an axis that DLPack has no number for", weight.name));
    };
    let device = match weight.device {
        crate::load::Device::Host => DLDevice { device_type: HOST, device_id: 0 },
        crate::load::Device::Gpu(index) => DLDevice { device_type: CUDA, device_id: index as i32 },
    };
    let mut kept = Box::new(Kept {
        tensor: DLManagedTensor {
            dl_tensor: DLTensor {
                data: weight.address as *mut c_void,
                device,
                ndim: shape.len() as i32,
                dtype,
                shape: std::ptr::null_mut(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(delete),
        },
        shape,
        strides,
        _model: model.clone(),
    });
    kept.tensor.dl_tensor.shape = kept.shape.as_mut_ptr();
    kept.tensor.dl_tensor.strides = kept.strides.as_mut_ptr();
    let kept = Box::into_raw(kept);
    // SAFETY: just made, and nobody else has it.
    unsafe {
        (*kept).tensor.manager_ctx = kept.cast();
        Ok(&raw mut (*kept).tensor)
    }
}

/// DLPack's code; `None` for those that cross as bytes.
fn code_of(dtype: DType) -> Option<u8> {
    match dtype {
        DType::BOOL => Some(BOOL),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => Some(UINT),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => Some(INT),
        DType::F16 | DType::F32 | DType::F64 => Some(FLOAT),
        DType::BF16 => Some(BFLOAT),
        DType::C64 => Some(COMPLEX),
        _ => None,
    }
}

/// What the receiver calls when it is done.
unsafe extern "C" fn delete(tensor: *mut DLManagedTensor) {
    // SAFETY: the receiver gives back what `managed` made, once.
    let context = unsafe { tensor.as_ref() }.map_or(std::ptr::null_mut(), |tensor| tensor.manager_ctx);
    if !context.is_null() {
        // SAFETY: `managed` has put the box there that the tensor is a part of.
        quietly((), || drop(unsafe { Box::from_raw(context.cast::<Kept>()) }));
    }
}

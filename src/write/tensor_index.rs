//! The text of `tensor_index.json`.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use crate::checkpoint::DType;
use crate::checkpoint::sllm::{IndexEntry, to_torch};

/// One tensor, and where its bytes lie over all files laid end to end.
pub struct Placed<'a> {
    /// As clients call it.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: DType,
    /// Elements along each axis.
    pub shape: &'a [u64],
    /// Elements between neighbours along each axis.
    pub stride: &'a [u64],
    /// Where its bytes begin.
    pub offset: u64,
    /// Bytes of its storage.
    pub bytes: u64,
}

/// The index of these tensors, in their order. Refuses types for which torch has no name.
pub fn tensor_index<'a>(tensors: impl Iterator<Item = Placed<'a>>) -> Result<Vec<u8>> {
    let mut index = Map::new();
    for tensor in tensors {
        index.insert(tensor.name.to_string(), serde_json::to_value(entry(&tensor)?)?);
    }
    Ok(serde_json::to_vec(&Value::Object(index))?)
}

/// Its entry there.
pub fn entry(tensor: &Placed<'_>) -> Result<IndexEntry> {
    let torch = to_torch(tensor.dtype, tensor.shape, tensor.stride).zip(tensor.dtype.torch_name());
    let Some(((shape, stride), dtype)) = torch else {
        bail!(
            "tensor '{}' is {} {:?}, for which torch, and so ServerlessLLM's index, has no type: load the safetensors \
             files as they are",
            tensor.name,
            tensor.dtype.safetensors_name(),
            tensor.shape
        );
    };
    Ok((tensor.offset, tensor.bytes, shape, stride, dtype.to_string()))
}

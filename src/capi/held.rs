//! What models and the tensors that went out of them hold together.

use std::ffi::CString;

use crate::capi::checkpoint::{Texts, sllm_gds_tensor};
use crate::capi::status::{Failure, invalid};
use crate::capi::strings::out;
use crate::load::{Device, Model, Weight};

/// A model with its texts for C. Tensors that were given out by DLPack hold it, too.
pub(super) struct Held {
    pub(super) model: Model,
    pub(super) texts: Texts,
    /// How it was loaded, as JSON.
    pub(super) report: CString,
}

impl Held {
    pub(super) fn new(model: Model) -> Held {
        let texts = Texts::of(model.weights().map(|w| (w.name, w.dtype.safetensors_name())));
        let report = out(&serde_json::to_string(model.report()).unwrap_or_default());
        Held { model, texts, report }
    }

    pub(super) fn weight(&self, index: usize, copy: usize) -> Result<Weight<'_>, Failure> {
        match self.model.names().nth(index) {
            Some(name) => Ok(self.model.get_copy(name, copy)?),
            None => invalid(format!("there is no tensor {index}: the model has {}", self.texts.len())),
        }
    }

    pub(super) fn describe(&self, index: usize, copy: usize) -> Result<sllm_gds_tensor, Failure> {
        let weight = self.weight(index, copy)?;
        let Some((name, dtype)) = self.texts.get(index) else { return invalid("a tensor without a name") };
        Ok(sllm_gds_tensor {
            name,
            dtype,
            axes: weight.shape.len(),
            shape: weight.shape.as_ptr(),
            strides: weight.strides.as_ptr(),
            bytes: weight.bytes,
            device: match weight.device {
                Device::Host => -1,
                Device::Gpu(index) => index as i32,
            },
            address: weight.address,
        })
    }

    pub(super) fn index_of(&self, name: &str) -> Result<usize, Failure> {
        // For its error.
        self.model.get(name)?;
        Ok(self.model.names().position(|known| known == name).unwrap_or(usize::MAX))
    }
}

//! Checkpoints on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use serde::Deserialize;
use sllm_gds::checkpoint::safetensors::read_header;

use crate::error::raise;
use crate::interrupt::run;

/// A tensor: name, safetensors' name of its type, shape, strides in elements (`None` where it is contiguous), offset and bytes.
type Row<'a> = (&'a str, &'static str, &'a [u64], Option<&'a [u64]>, u64, u64);

/// An opened checkpoint.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Checkpoint(pub Arc<sllm_gds::Checkpoint>);

#[pymethods]
impl Checkpoint {
    /// Opens a directory or a safetensors file.
    #[new]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Checkpoint> {
        let opened = run(py, &sllm_gds::Cancel::new(), || sllm_gds::Checkpoint::open(path))?;
        Ok(Checkpoint(Arc::new(opened)))
    }

    #[getter]
    fn dir(&self) -> PathBuf {
        self.0.dir.clone()
    }

    #[getter]
    fn layout(&self) -> String {
        self.0.layout.to_string()
    }

    /// Its data files, in the order in which they are laid end to end.
    #[getter]
    fn files(&self) -> Vec<PathBuf> {
        self.0.files.iter().map(|file| file.path.clone()).collect()
    }

    #[getter]
    fn file_bytes(&self) -> u64 {
        self.0.file_bytes()
    }

    #[getter]
    fn tensor_bytes(&self) -> u64 {
        self.0.tensor_bytes()
    }

    /// All tensors, in the order of their offsets.
    fn tensors(&self) -> Vec<Row<'_>> {
        self.0.tensors().iter().map(row).collect()
    }

    /// What its safetensors headers say beside tensors, file by file; `None` for a file that says nothing.
    fn metadata(&self, py: Python<'_>) -> PyResult<Vec<Option<BTreeMap<String, String>>>> {
        #[derive(Deserialize)]
        struct Header {
            #[serde(rename = "__metadata__")]
            metadata: Option<BTreeMap<String, String>>,
        }
        if self.0.layout != sllm_gds::Layout::Safetensors {
            return Ok(Vec::new());
        }
        let read = |file: &sllm_gds::checkpoint::DataFile| -> anyhow::Result<_> {
            let (_, header) = read_header(&file.path)?;
            Ok(serde_json::from_str::<Header>(&header)?.metadata)
        };
        let found = self.0.files.iter().map(read).collect::<anyhow::Result<_>>();
        found.map_err(|error| raise(py, error.into()))
    }
}

fn row(tensor: &sllm_gds::Tensor) -> Row<'_> {
    (
        &tensor.name,
        tensor.dtype.safetensors_name(),
        &tensor.shape,
        (!tensor.is_contiguous()).then_some(tensor.stride.as_slice()),
        tensor.offset,
        tensor.bytes,
    )
}

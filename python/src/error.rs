//! The crate's errors as the exceptions of `sllm_gds._errors`.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use sllm_gds::Error;
use sllm_gds::client::ClientError;

/// The exception for an error, with its words.
pub fn raise(py: Python<'_>, error: Error) -> PyErr {
    made(py, &error).unwrap_or_else(|failed| failed)
}

fn made(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let facts = PyDict::new(py);
    let class = match error {
        Error::NotFound(_) => "NotFoundError",
        Error::Checkpoint(_) => "CheckpointError",
        Error::Io { path, offset, source, .. } => {
            facts.set_item("errno", source.raw_os_error())?;
            facts.set_item("filename", path)?;
            facts.set_item("offset", *offset)?;
            "ReadError"
        }
        Error::Corrupt { tensors } => {
            facts.set_item("tensors", tensors)?;
            "CorruptError"
        }
        Error::OutOfMemory { needed_bytes, free_bytes, .. } => {
            facts.set_item("needed_bytes", *needed_bytes)?;
            facts.set_item("free_bytes", *free_bytes)?;
            "OutOfMemoryError"
        }
        Error::Cuda(_) => "CudaError",
        Error::Interrupted => "CancelledError",
        _ => "RefusedError",
    };
    let class = py.import("sllm_gds._errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((error.to_string(),), Some(&facts))?))
}

/// The exception for an error of a store server's client, with its words.
pub fn raise_client(py: Python<'_>, error: ClientError) -> PyErr {
    let class = match error {
        ClientError::Here(error) => return raise(py, error),
        ClientError::Interrupted => return raise(py, Error::Interrupted),
        ClientError::Unreachable(_) => "UnreachableError",
        ClientError::NotFound(_) => "NotFoundError",
        ClientError::Denied(_) => "DeniedError",
        ClientError::Busy(_) => "BusyError",
        ClientError::Corrupt(_) => "CorruptError",
        ClientError::Refused(_) => "RefusedError",
        _ => "ServerError",
    };
    let made = || {
        let class = py.import("sllm_gds._errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call1((error.to_string(),))?))
    };
    made().unwrap_or_else(|failed| failed)
}

/// An exception for a request that makes no sense.
pub fn refused(py: Python<'_>, why: impl Into<String>) -> PyErr {
    raise(py, Error::Refused(why.into()))
}

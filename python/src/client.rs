//! A store server's client.

use pyo3::prelude::*;
use sllm_gds::client::ClientError;

use crate::dlpack::{Memory, OwnTensor};
use crate::error::{raise, raise_client};
use crate::interrupt::run;

/// A store server, connected to.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Client(sllm_gds::client::Client);

#[pymethods]
impl Client {
    #[new]
    fn new(py: Python<'_>, address: &str) -> PyResult<Client> {
        let client = called(py, &sllm_gds::Cancel::new(), || sllm_gds::client::Client::connect(address))?;
        Ok(Client(client))
    }

    /// What the server holds and does, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        let status = called(py, &sllm_gds::Cancel::new(), || self.0.status())?;
        let failed = |error: serde_json::Error| raise(py, sllm_gds::Error::Refused(error.to_string()));
        serde_json::to_string(&status).map_err(failed)
    }

    /// Brings a model into memory of this process's own on a GPU.
    fn load(&self, py: Python<'_>, model: &str, gpu: usize) -> PyResult<Vec<(String, OwnTensor)>> {
        let cancel = sllm_gds::Cancel::new();
        let load = || self.0.begin(model, gpu)?.wait_unless(&cancel, |_, _| ());
        let model = called(py, &cancel, load)?;
        Ok(OwnTensor::all(Memory::Served(Box::new(model))))
    }
}

/// Makes a call without the interpreter's lock; Ctrl-C ends it.
fn called<T: Send>(
    py: Python<'_>,
    cancel: &sllm_gds::Cancel,
    call: impl FnOnce() -> Result<T, ClientError> + Send,
) -> PyResult<T> {
    run(py, cancel, || Ok(call()))?.map_err(|error| raise_client(py, error))
}

//! Loads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use sllm_gds::{EngineChoice, IoChoice, LoadReport, Request, Select, To};

use crate::checkpoint::Checkpoint;
use crate::dlpack::{Memory as Held, OwnTensor};
use crate::error::{raise, refused};
use crate::interrupt::{Running, run};
use crate::wanted::{Group, links_of};

/// Keeps pinned memory, streams and a pool from one load to the next.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Loader(pub Arc<sllm_gds::Loader>);

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (*, io="auto", engine="auto", threads=None, chunk_bytes=None, copy_bytes=None, ring_bytes=None,
        pool_bytes=None, prefault=false, gds_helper=None))]
    #[allow(clippy::too_many_arguments)] // Keywords of Python's.
    fn new(
        py: Python<'_>,
        io: &str,
        engine: &str,
        threads: Option<usize>,
        chunk_bytes: Option<u64>,
        copy_bytes: Option<u64>,
        ring_bytes: Option<u64>,
        pool_bytes: Option<u64>,
        prefault: bool,
        gds_helper: Option<PathBuf>,
    ) -> PyResult<Loader> {
        let io = match io {
            "auto" => IoChoice::Auto,
            "direct" => IoChoice::Direct,
            "buffered" => IoChoice::Buffered,
            other => return Err(refused(py, format!("io '{other}': it is auto, direct or buffered"))),
        };
        let engine = match engine {
            "auto" => EngineChoice::Auto,
            "gds" => EngineChoice::Gds,
            "pinned" => EngineChoice::Pinned,
            "host" => EngineChoice::Host,
            other => return Err(refused(py, format!("engine '{other}': it is auto, gds, pinned or host"))),
        };
        let mut builder = sllm_gds::Loader::builder().io(io).engine(engine).prefault(prefault);
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if let Some(bytes) = chunk_bytes {
            builder = builder.chunk_bytes(bytes);
        }
        if let Some(bytes) = copy_bytes {
            builder = builder.copy_bytes(bytes);
        }
        if let Some(bytes) = ring_bytes {
            builder = builder.ring_bytes(bytes);
        }
        if let Some(bytes) = pool_bytes {
            builder = builder.pool_bytes(bytes);
        }
        if let Some(program) = gds_helper {
            builder = builder.gds_helper(program);
        }
        builder.build().map(|loader| Loader(Arc::new(loader))).map_err(|error| raise(py, error))
    }

    /// Begins a load of a group, and returns at once.
    ///
    /// The caller owns the memory: until the load has ended it may be written to, and nobody reads it.
    #[pyo3(signature = (checkpoint, group, *, verify=false, links=None))]
    fn start(
        &self,
        py: Python<'_>,
        checkpoint: &Checkpoint,
        group: Group,
        verify: bool,
        links: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Load> {
        let cancel = sllm_gds::Cancel::new();
        let request = group.request(&checkpoint.0).verify(verify).links(links_of(py, links)?).cancel(&cancel);
        let (loader, checkpoint) = (self.0.clone(), checkpoint.0.clone());
        // The model is a view of the caller's memory: only its report is kept.
        let work = move || Ok(loader.load(&checkpoint, &request)?.report().clone());
        let running = Running::start(work).map_err(|error| raise(py, error))?;
        Ok(Load { running: Mutex::new(Some(running)), cancel })
    }

    /// Loads tensors into memory of the loader's own, on the host (`None`) or a GPU.
    #[pyo3(signature = (checkpoint, device, names, *, verify=false, links=None))]
    fn load_own(
        &self,
        py: Python<'_>,
        checkpoint: &Checkpoint,
        device: Option<usize>,
        names: Option<Vec<String>>,
        verify: bool,
        links: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Vec<(String, OwnTensor)>> {
        let to = device.map_or(To::Host, To::gpu);
        let select = names.map_or(Select::All, Select::names);
        let cancel = sllm_gds::Cancel::new();
        let request =
            Request::to(to).select(select).verify(verify).links(links_of(py, links)?).cancel(&cancel);
        let model = run(py, &cancel, || self.0.load(&checkpoint.0, &request))?;
        Ok(OwnTensor::all(Held::Loaded(Box::new(model))))
    }
}

/// A load under way. Dropped, it is asked to stop and waited for: until then it writes.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Load {
    running: Mutex<Option<Running<LoadReport>>>,
    cancel: sllm_gds::Cancel,
}

#[pymethods]
impl Load {
    /// Waits for its end; the report.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let running = self.running.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some(running) = running else { return Err(refused(py, "a load is waited for once")) };
        report(py, &running.wait(py, &self.cancel)?)
    }

    /// Asks it to stop.
    fn cancel(&self) {
        self.cancel.set();
    }

    /// Asks it to stop, and waits until it writes no more.
    fn close(&self, py: Python<'_>) {
        self.cancel.set();
        if let Some(running) = self.running.lock().unwrap_or_else(|e| e.into_inner()).take() {
            py.detach(|| running.abandon());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            self.cancel.set();
            running.abandon();
        }
    }
}

fn report<'py>(py: Python<'py>, report: &LoadReport) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    found.set_item("bytes", report.bytes)?;
    found.set_item("read_bytes", report.read_bytes)?;
    found.set_item("elapsed_s", report.elapsed_s)?;
    found.set_item("gb_per_s", report.gb_per_s)?;
    found.set_item("read_gb_per_s", report.read_gb_per_s)?;
    found.set_item("path", &report.path)?;
    found.set_item("path_reason", &report.path_reason)?;
    found.set_item("direct_bytes", report.direct_bytes)?;
    found.set_item("buffered_bytes", report.buffered_bytes)?;
    found.set_item("threads", report.threads)?;
    found.set_item("staging_bytes", report.staging_bytes)?;
    let phases = PyDict::new(py);
    phases.set_item("open_s", report.phases.open_s)?;
    phases.set_item("plan_s", report.phases.plan_s)?;
    phases.set_item("allocate_s", report.phases.allocate_s)?;
    phases.set_item("register_s", report.phases.register_s)?;
    phases.set_item("transfer_s", report.phases.transfer_s)?;
    found.set_item("phases", phases)?;
    Ok(found)
}

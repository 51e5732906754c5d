//! Loads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use sllm_gds::{
    ByteRange, Device, EngineChoice, IoChoice, LoadReport, Memory, Request, Select, Slice, Target, To,
};

use crate::checkpoint::Checkpoint;
use crate::dlpack::{Memory as Held, OwnTensor};
use crate::error::{raise, refused};
use crate::interrupt::{Cancel, run};

/// Memory of the caller's: the GPU's index or `None` for the host, its address, its bytes.
type Given = (Option<usize>, u64, u64);

/// Keeps pinned memory, streams and a pool from one load to the next.
#[pyclass(frozen, module = "sllm_gds._core")]
pub struct Loader(sllm_gds::Loader);

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
        builder.build().map(Loader).map_err(|error| raise(py, error))
    }

    /// Loads tensors, or the slices (axis, start, stop) of those that `slices` names, each to byte `places[name][1]` of memory
    /// `places[name][0]`; the report.
    ///
    /// The caller owns the memory: it may be written to, nobody reads it meanwhile, and nothing queued before does.
    #[pyo3(signature = (checkpoint, memory, places, slices, *, verify=false, cancel=None))]
    #[allow(clippy::too_many_arguments)]
    fn load_tensors<'py>(
        &self,
        py: Python<'py>,
        checkpoint: &Checkpoint,
        memory: Vec<Given>,
        places: BTreeMap<String, (usize, u64)>,
        slices: BTreeMap<String, (usize, u64, u64)>,
        verify: bool,
        cancel: Option<&Cancel>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let select = match slices.is_empty() && places.len() == checkpoint.0.tensors().len() {
            true => Select::All,
            false if slices.is_empty() => Select::names(places.keys()),
            false => {
                let slice = |name: &String| {
                    let (axis, start, stop) = *slices.get(name)?;
                    Some(Slice { axis, range: start..stop })
                };
                Select::Slices(places.keys().map(|name| (name.clone(), slice(name))).collect())
            }
        };
        let target = Target::tensors(memories(&memory), places);
        self.load(py, checkpoint, Request::to(To::Into(target)).select(select).verify(verify), cancel)
    }

    /// Loads byte ranges (from, bytes, memory, to) of the checkpoint, its files laid end to end; the report. As for
    /// `load_tensors`.
    #[pyo3(signature = (checkpoint, memory, ranges, *, verify=false, cancel=None))]
    fn load_ranges<'py>(
        &self,
        py: Python<'py>,
        checkpoint: &Checkpoint,
        memory: Vec<Given>,
        ranges: Vec<(u64, u64, usize, u64)>,
        verify: bool,
        cancel: Option<&Cancel>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let range = |(from, bytes, memory, to)| ByteRange { from, bytes, memory, to };
        let target = Target::ranges(memories(&memory), ranges.into_iter().map(range).collect());
        self.load(py, checkpoint, Request::to(To::Into(target)).verify(verify), cancel)
    }

    /// Loads tensors into memory of the loader's own, on the host (`None`) or a GPU.
    #[pyo3(signature = (checkpoint, device, names, *, verify=false))]
    fn load_own(
        &self,
        py: Python<'_>,
        checkpoint: &Checkpoint,
        device: Option<usize>,
        names: Option<Vec<String>>,
        verify: bool,
    ) -> PyResult<Vec<(String, OwnTensor)>> {
        let to = device.map_or(To::Host, To::gpu);
        let select = names.map_or(Select::All, Select::names);
        let cancel = sllm_gds::Cancel::new();
        let request = Request::to(to).select(select).verify(verify).cancel(&cancel);
        let model = run(py, &cancel, || self.0.load(&checkpoint.0, &request))?;
        Ok(OwnTensor::all(Held::Loaded(Box::new(model))))
    }
}

impl Loader {
    fn load<'py>(
        &self,
        py: Python<'py>,
        checkpoint: &Checkpoint,
        request: Request,
        cancel: Option<&Cancel>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let cancel = cancel.map(|cancel| cancel.0.clone()).unwrap_or_default();
        let request = request.cancel(&cancel);
        // The model is a view of the caller's memory: only its report is kept.
        let load = || Ok(self.0.load(&checkpoint.0, &request)?.report().clone());
        report(py, &run(py, &cancel, load)?)
    }
}

fn memories(given: &[Given]) -> Vec<Memory> {
    let memory = |(gpu, address, bytes): &Given| {
        let device = gpu.map_or(Device::Host, Device::Gpu);
        // SAFETY: Python's side hands over memory of tensors that it made or was given for this, keeps them until the load has
        // returned, and has waited for what was queued on them; the model is dropped before that.
        unsafe { Memory::new(device, *address, *bytes) }
    };
    given.iter().map(memory).collect()
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
    Ok(found)
}

//! What a load is to bring, and over which links, as Python says it.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use sllm_gds::gpu::CallerEvent;
use sllm_gds::{ByteRange, Checkpoint, Device, Links, Memory, Request, Select, Slice, Target, To};

use crate::error::refused;

/// Memory of the caller's: the GPU's index or `None` for the host, its address, its bytes.
type Given = (Option<usize>, u64, u64);

/// What is loaded together into the caller's memory.
#[derive(FromPyObject)]
pub struct Group {
    memory: Vec<Given>,
    /// From which byte of the checkpoint, its files laid end to end, how many, into which memory, to which byte of it.
    ranges: Vec<(u64, u64, usize, u64)>,
    /// Or tensors by name: into which memory, and to which byte of it.
    places: BTreeMap<String, (usize, u64)>,
    /// Of those that are not wanted whole: axis, from, to.
    slices: BTreeMap<String, (usize, u64, u64)>,
    /// The driver's handle of an event before which nothing is written.
    after: Option<u64>,
}

impl Group {
    /// The load of it.
    pub fn request(self, checkpoint: &Checkpoint) -> Request {
        let memory = |(gpu, address, bytes): &Given| {
            let device = gpu.map_or(Device::Host, Device::Gpu);
            // SAFETY: Python's side hands over memory of tensors that it made or was given for this, keeps them until the load
            // has ended, and has waited for what was queued on them, or names an event that comes after that; the model is
            // dropped before that.
            unsafe { Memory::new(device, *address, *bytes) }
        };
        let memory: Vec<Memory> = self.memory.iter().map(memory).collect();
        let request = match self.places.is_empty() {
            true => {
                let range = |(from, bytes, memory, to)| ByteRange { from, bytes, memory, to };
                Request::to(To::Into(Target::ranges(memory, self.ranges.into_iter().map(range).collect())))
            }
            false => {
                let select = select(checkpoint, &self.places, &self.slices);
                Request::to(To::Into(Target::tensors(memory, self.places))).select(select)
            }
        };
        match self.after {
            // SAFETY: Python's side keeps the event until the load has ended.
            Some(handle) => request.after(unsafe { CallerEvent::new(handle) }),
            None => request,
        }
    }
}

fn select(
    checkpoint: &Checkpoint,
    places: &BTreeMap<String, (usize, u64)>,
    slices: &BTreeMap<String, (usize, u64, u64)>,
) -> Select {
    match slices.is_empty() {
        true if places.len() == checkpoint.tensors().len() => Select::All,
        true => Select::names(places.keys()),
        false => {
            let slice = |name: &String| {
                let (axis, start, stop) = *slices.get(name)?;
                Some(Slice { axis, range: start..stop })
            };
            Select::Slices(places.keys().map(|name| (name.clone(), slice(name))).collect())
        }
    }
}

/// `"auto"`, `"own"`, `"all"`, or GPUs by their numbers or UUIDs.
pub fn links_of(py: Python<'_>, links: Option<Bound<'_, PyAny>>) -> PyResult<Links> {
    let Some(links) = links else { return Ok(Links::Auto) };
    if let Ok(word) = links.extract::<String>() {
        return match word.as_str() {
            "auto" => Ok(Links::Auto),
            "own" => Ok(Links::Own),
            "all" => Ok(Links::All),
            _ => Err(refused(
                py,
                format!("links '{word}': it is auto, own, all, or a list of GPUs, as [0, 1]"),
            )),
        };
    }
    let labels = links
        .try_iter()
        .and_then(|gpus| gpus.map(|gpu| gpu?.str()?.extract::<String>()).collect::<PyResult<Vec<String>>>());
    let label = |label: String| label.strip_prefix("cuda:").map(str::to_string).unwrap_or(label);
    match labels {
        Ok(labels) => Ok(Links::Gpus(labels.into_iter().map(label).collect())),
        Err(_) => Err(refused(py, "links: it is auto, own, all, or a list of GPUs, as [0, 1]")),
    }
}

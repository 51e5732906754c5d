//! Saves of tensors that lie in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use pyo3::prelude::*;
use sllm_gds::checkpoint::reader::TensorSource;
use sllm_gds::checkpoint::{DType, contiguous_stride, element_count};
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::{self, Gpu};
use sllm_gds::os::memory::{CallerMemory, HostBuffer};
use sllm_gds::os::progress::Progress;
use sllm_gds::write::input::{Input, InputTensor};
use sllm_gds::write::save::{Layout, check_space, save as write};
use sllm_gds::write::sidecars::{Content, Sidecar};
use sllm_gds::write::target;

use crate::interrupt::run;

/// A contiguous tensor in memory: name, safetensors' name of its type, shape, the GPU's index or `None` for the host, address,
/// bytes.
type Row = (String, String, Vec<u64>, Option<usize>, u64, u64);

/// Saves tensors as a checkpoint in ServerlessLLM's layout, whole or not at all. Those at one address are tied. Files beside
/// the weights are names and texts. Returns (bytes, partitions, seconds).
#[pyfunction]
#[pyo3(signature = (path, tensors, *, partitions, max_partition_bytes, beside, made_from, overwrite))]
#[allow(clippy::too_many_arguments)] // Keywords of Python's.
pub fn save(
    py: Python<'_>,
    path: PathBuf,
    tensors: Vec<Row>,
    partitions: usize,
    max_partition_bytes: u64,
    beside: Vec<(String, String)>,
    made_from: String,
    overwrite: bool,
) -> PyResult<(u64, usize, f64)> {
    let cancel = sllm_gds::Cancel::new();
    let work = || -> anyhow::Result<_> {
        let mut input = input_of(tensors, made_from)?;
        let sidecar = |(name, text)| Sidecar { name, content: Content::Text(text) };
        input.sidecars.carried = beside.into_iter().map(sidecar).collect();
        let layout = Layout::new(&input, partitions, max_partition_bytes)?;
        target::check_free(&path, overwrite)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        check_space(parent, layout.bytes().saturating_add(input.sidecar_bytes()))?;
        let saved = write(&input, &layout, &path, overwrite, &cancel, &Progress::default())?;
        Ok((saved.bytes, saved.partitions, saved.elapsed_s))
    };
    run(py, &cancel, || work().map_err(sllm_gds::Error::from))
}

fn input_of(rows: Vec<Row>, made_from: String) -> anyhow::Result<Input> {
    let mut gpus: HashMap<usize, Arc<Gpu>> = HashMap::new();
    let mut first_at: HashMap<(Option<usize>, u64, u64), usize> = HashMap::new();
    let (mut tensors, mut memory) = (Vec::new(), Vec::new());
    for (i, (name, dtype, shape, device, address, bytes)) in rows.into_iter().enumerate() {
        let dtype = DType::from_safetensors(&dtype)
            .with_context(|| format!("'{name}': no type is called {dtype}"))?;
        let wanted = element_count(&shape).and_then(|elements| dtype.bytes_of(elements));
        if wanted != Some(bytes) {
            anyhow::bail!(
                "tensor '{name}': {} {shape:?} does not have {bytes} bytes",
                dtype.safetensors_name()
            );
        }
        let first = *first_at.entry((device, address, bytes)).or_insert(i);
        let tied_to = (first != i && bytes > 0).then_some(first);
        let stride = contiguous_stride(&shape);
        tensors.push(InputTensor { name, dtype, shape, stride, bytes, tied_to });
        // SAFETY: Python's side keeps these tensors until the save has returned, and has waited for what was queued on them.
        // They are only read.
        let caller = unsafe { CallerMemory::new(address, bytes) };
        memory.push(match device {
            Some(index) => {
                if let std::collections::hash_map::Entry::Vacant(free) = gpus.entry(index) {
                    let opened = gpu::open(&[index.to_string()]).map_err(anyhow::Error::msg)?;
                    free.insert(opened.into_iter().next().context("no GPU was opened")?);
                }
                Held::Gpu(DeviceBuffer::of_caller(&gpus[&index], &caller)?)
            }
            None => Held::Host(HostBuffer::of_caller(&caller)),
        });
    }
    Ok(Input::made_up("model".into(), made_from, tensors, Box::new(InMemory(memory))))
}

enum Held {
    Host(HostBuffer),
    Gpu(DeviceBuffer),
}

struct InMemory(Vec<Held>);

impl TensorSource for InMemory {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        match &self.0[tensor] {
            Held::Host(host) => out.copy_from_slice(&host.as_slice()[offset as usize..][..out.len()]),
            Held::Gpu(device) => device.read(offset, out)?,
        }
        Ok(())
    }
}

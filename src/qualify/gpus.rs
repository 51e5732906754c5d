//! The GPUs under test, by CUDA and by NVML at once.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};

use crate::gpu;
use crate::gpu::Gpu;
use crate::node::nvml;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};

pub struct QualifiedGpu {
    /// `GPU 0`: by NVML's index, as the checks name it, or as the user did where NVML does not know it.
    pub name: String,
    pub uuid: String,
    pub gpu: Arc<Gpu>,
    pub facts: Option<GpuFacts>,
}

/// Finds each opened GPU in NVML. None may stand twice: it would be measured against itself.
pub fn qualified(source: &Source, gpus: &[Arc<Gpu>]) -> Result<Vec<QualifiedGpu>> {
    if gpus.is_empty() {
        return Ok(Vec::new());
    }
    let devices = gpu::devices().map_err(|why| anyhow!(why))?;
    let facts = nvml::gpus(source).unwrap_or_default();
    let mut all: Vec<QualifiedGpu> = Vec::new();
    for gpu in gpus {
        if all.iter().any(|other| other.gpu.index == gpu.index) {
            bail!("GPU {} is named twice: each can be measured once", gpu.label);
        }
        let uuid = devices.iter().find(|d| d.index == gpu.index).map_or(String::new(), |d| d.uuid.clone());
        let facts = facts.iter().find(|facts| facts.uuid == uuid).cloned();
        let name = facts.as_ref().map_or(gpu.label.clone(), |facts| facts.index.to_string());
        all.push(QualifiedGpu { name: format!("GPU {name}"), uuid, gpu: gpu.clone(), facts });
    }
    Ok(all)
}

/// What NVML says now of those that it knows; that it does not answer says nothing of a GPU. Without GPUs it isn't asked.
pub fn facts_now(source: &Source, gpus: &[QualifiedGpu]) -> Result<Vec<GpuFacts>, Unread> {
    if gpus.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = nvml::gpus(source)?;
    all.retain(|facts| gpus.iter().any(|gpu| gpu.uuid == facts.uuid));
    Ok(all)
}

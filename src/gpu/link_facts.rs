//! Facts of the links between all GPUs of a machine: what the driver says, joined with NVML and sysfs. No context is made.

use cudarc::driver::sys;

use crate::gpu::device;
use crate::gpu::peers::attribute;
use crate::node::gpu_links::{GpuLinks, PeerFact};
use crate::node::nvml;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};

/// All that is told of the links between these GPUs. Asks nobody where there is only one.
pub fn links(source: &Source, gpus: &[GpuFacts]) -> GpuLinks {
    if gpus.len() < 2 {
        return GpuLinks::new(source, gpus, None, &[]);
    }
    let nvlinks = nvml::nvlinks(source).ok();
    let peers = source.fact("peers", probe).unwrap_or_default();
    GpuLinks::new(source, gpus, nvlinks.as_deref(), &peers)
}

/// Asks the driver of every pair of CUDA devices, in both directions.
fn probe() -> Result<Vec<PeerFact>, Unread> {
    let devices = device::devices().map_err(Unread::Other)?;
    let mut facts = Vec::new();
    for from in &devices {
        for to in devices.iter().filter(|to| to.index != from.index) {
            use sys::CUdevice_P2PAttribute_enum as A;
            let ask = |what| attribute(what, from.index, to.index);
            let access = ask(A::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED);
            let access =
                access.map_err(|e| Unread::Other(format!("ask for peer access: {}", device::cause(e))))?;
            facts.push(PeerFact {
                from_uuid: from.uuid.clone(),
                to_uuid: to.uuid.clone(),
                access: access != 0,
                native_atomics: ask(A::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED).ok().map(|n| n != 0),
                performance_rank: ask(A::CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK).ok(),
            });
        }
    }
    Ok(facts)
}

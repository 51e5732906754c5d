//! What every load to GPUs begins with: lanes, and memory for them.

use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{Gpu, kernels};
use crate::load::loaded::{Buffer, Placement};
use crate::load::options::Options;
use crate::load::plan::Plan;
use crate::load::report::Clock;

/// Gives the checkpoint to load: one that is open, or one that is opened now, on the clock.
pub type Open<'o> = dyn Fn() -> Result<Arc<Checkpoint>> + 'o;

/// The GPUs of each lane: one, or all of them where each gets everything.
pub(super) fn gpus_of_lanes(gpus: &[Arc<Gpu>], placement: Placement) -> Vec<Vec<Arc<Gpu>>> {
    match placement {
        Placement::Balanced => gpus.iter().map(|gpu| vec![gpu.clone()]).collect(),
        Placement::Replicate => vec![gpus.to_vec()],
    }
}

/// Device memory for each lane's GPUs.
pub(super) fn allocate(plan: &Plan, lanes: &[Vec<Arc<Gpu>>]) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for (lane, bytes) in lanes.iter().zip(&plan.destination_bytes) {
        for gpu in lane {
            buffers.push(Buffer::Device(DeviceBuffer::new(gpu, *bytes)?));
        }
    }
    Ok(buffers)
}

/// Poisons device memory, where the options say so, off the clock.
pub(super) fn poison_all(buffers: &mut [Buffer], options: &Options, clock: &mut Clock) -> Result<()> {
    if options.poison {
        for buffer in buffers {
            if let Buffer::Device(device) = buffer {
                kernels::poison(device)?;
            }
        }
        clock.skip();
    }
    Ok(())
}

/// The same GPUs in the same order, each once.
pub(super) fn each_once<'g>(gpus: impl IntoIterator<Item = &'g Arc<Gpu>>) -> Vec<Arc<Gpu>> {
    let mut found: Vec<Arc<Gpu>> = Vec::new();
    for gpu in gpus {
        if found.iter().all(|other| other.index != gpu.index) {
            found.push(gpu.clone());
        }
    }
    found
}

//! What loads to GPUs have in common.

use std::sync::Arc;

use anyhow::Result;

use crate::gpu::{Gpu, kernels};
use crate::load::loaded::Buffer;
use crate::load::options::Options;
use crate::load::report::Clock;

/// Poisons new device memory, where the options say so, off the clock.
pub(super) fn poison_all(buffers: &mut [Buffer], options: &Options, clock: &mut Clock) -> Result<()> {
    if options.poison {
        for buffer in buffers {
            match buffer {
                Buffer::Device(device) if !device.is_callers() => kernels::poison(device)?,
                _ => {}
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

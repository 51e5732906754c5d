//! How much device memory is mapped at a time: what fits the GPUs' BAR1.

use std::sync::Arc;

use crate::gpu::Gpu;
use crate::node::nvml;
use crate::node::source::Source;

/// Slabs mapped at a time: one is read, one is being mapped.
pub const WINDOW: usize = 2;

/// Registering takes cuFile about 20 ms a call, whatever the size, and holds up reads meanwhile: few large slabs.
const SLAB_BYTES: u64 = 4 << 30;
const SMALL_SLAB_BYTES: u64 = 32 << 20;

/// Bytes of a slab of each lane, by the GPUs that the lanes go to; by NVML, where it tells what is free.
pub fn slab_bytes(lanes: &[&Arc<Gpu>]) -> Vec<u64> {
    let facts = nvml::gpus(&Source::live(false)).unwrap_or_default();
    let free = |gpu: &str| facts.iter().find(|f| f.uuid == gpu)?.bar1_free_bytes;
    let uuids: Vec<&str> = lanes.iter().map(|gpu| gpu.uuid.as_str()).collect();
    shares(&uuids, free)
}

/// As many slabs as all of a GPU's lanes have mapped at a time, and one more each that is being taken apart, fit what is free
/// of its BAR1; that holds as long as a share is no less than one read, which is the least that is mapped.
fn shares(lanes: &[&str], free: impl Fn(&str) -> Option<u64>) -> Vec<u64> {
    let share = |gpu: &&str| {
        let together = lanes.iter().filter(|other| *other == gpu).count() as u64;
        let of_a_lane = free(gpu).map_or(SLAB_BYTES, |free| free / (WINDOW as u64 + 1)) / together;
        match of_a_lane {
            small @ ..SMALL_SLAB_BYTES => small,
            share => (share - share % SMALL_SLAB_BYTES).min(SLAB_BYTES),
        }
    };
    lanes.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_to_one_gpu_share_its_bar1() {
        const GIB: u64 = 1 << 30;
        let free = |gpu: &str| match gpu {
            "large" => Some(120 * GIB),
            "small" => Some(200 << 20),
            "full" => Some(0),
            _ => None,
        };
        let one_each = shares(&["large", "small", "full", "silent"], free);
        assert_eq!(one_each, [SLAB_BYTES, 64 << 20, 0, SLAB_BYTES]);
        let lanes = ["small", "large", "small", "small", "silent", "silent"];
        let shared = shares(&lanes, free);
        assert_eq!(shared[1], SLAB_BYTES, "the other GPU's lanes take nothing from it");
        assert_eq!(shared[4..], [SLAB_BYTES / 2; 2]);
        for count in 1..40 {
            for gpu in ["large", "small"] {
                let shared = shares(&vec![gpu; count], free);
                let mapped: u64 = shared.iter().map(|bytes| bytes * (WINDOW as u64 + 1)).sum();
                assert!(mapped <= free(gpu).unwrap(), "{count} lanes to {gpu} map {mapped}");
                assert!(shared.iter().all(|bytes| *bytes > 0));
            }
        }
    }
}

//! The baseline: the safetensors crate as its users load, one memory map a shard and one copy a tensor.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::bench::done::{Bytes, Done, InPlace};
use crate::gpu::kernels;
use crate::gpu::memory::DeviceBuffer;
use crate::load::phases::Phases;
use crate::load::verify;
use crate::load::verify::Digests;
use crate::load::{Clock, Destination};
use crate::os::cancel::Cancel;

/// Loads every tensor of these safetensors files into memory of its own. Several GPUs are filled one after
/// the other, with nearly equal bytes.
pub(super) fn load(shards: &[PathBuf], to: &Destination, cancel: &Cancel) -> Result<Done> {
    let mut clock = Clock::start();
    let mut tensors = Vec::new();
    let mut phases = Phases::default();
    let maps = shards.iter().map(|shard| map(shard)).collect::<Result<Vec<_>>>()?;
    let total: u64 = maps.iter().map(|m| m.len() as u64).sum();
    let mut bytes = 0u64;
    for (shard, map) in shards.iter().zip(&maps) {
        let parsed = SafeTensors::deserialize(map).with_context(|| format!("parse {}", shard.display()))?;
        phases.open_s += clock.lap();
        for (name, view) in parsed.iter() {
            cancel.check()?;
            let data = view.data();
            let copied = match to {
                Destination::Host => Bytes::Host(data.to_vec()),
                Destination::Gpus(gpus, _) => {
                    let gpu = &gpus[(bytes as u128 * gpus.len() as u128 / u128::from(total.max(1))) as usize];
                    let mut buffer = DeviceBuffer::new(gpu, data.len() as u64)?;
                    buffer.as_mut_slice().write(gpu, 0, data)?;
                    Bytes::Device(buffer)
                }
            };
            bytes += data.len() as u64;
            tensors.push((name.to_string(), copied));
        }
        phases.transfer_s += clock.lap();
    }
    if let Destination::Gpus(gpus, _) = to {
        // A copy from pageable memory may return while its last bytes are still on the way.
        gpus.iter().try_for_each(|gpu| gpu.synchronize())?;
        phases.transfer_s += clock.lap();
    }
    Ok(Done {
        elapsed_s: clock.total(),
        phases,
        bytes,
        read_bytes: None,
        path: "mmap-copy".into(),
        path_reason: "the safetensors crate: one map a shard, one copy a tensor, one thread".into(),
        chunk_bytes: 0,
        threads: 0,
        links: Vec::new(),
        bytes_in_place: InPlace::Baseline(tensors),
    })
}

/// The tensors that are wrong or missing.
pub(super) fn mismatches(
    tensors: &[(String, Bytes)],
    expected: &Digests,
    cancel: &Cancel,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut on_host: (Vec<&str>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        match bytes {
            Bytes::Host(bytes) => {
                on_host.0.push(name);
                on_host.1.push(bytes);
            }
            Bytes::Device(buffer) => {
                cancel.check()?;
                let found = kernels::digests(buffer, &[(0, buffer.bytes())])?.0;
                wrong.extend(found.into_iter().filter_map(|found| verify::differs(name, found, expected)));
            }
        }
    }
    wrong.extend(verify::mismatches(&on_host.0, &on_host.1, expected, cancel)?);
    let names: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let missing = expected.keys().filter(|name| !names.contains(name.as_str()));
    wrong.extend(missing.map(|name| format!("tensor '{name}' is missing")));
    Ok(wrong)
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // SAFETY: the map is read-only and private to this load. Should another process cut the file meanwhile,
    // the read ends in SIGBUS: the baseline takes that risk as all users of mapped safetensors do.
    unsafe { Mmap::map(&file) }.with_context(|| format!("map {}", path.display()))
}

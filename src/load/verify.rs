//! Digests of what lies in the destination, held against what was written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::gpu::kernels;
use crate::gpu::memory::DeviceBuffer;
use crate::load::{Buffer, Loaded, View};
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::parallel;

/// Bytes that one thread digests at a time: a multiple of 8.
const PART_BYTES: u64 = 16 << 20;

/// Digests by tensor name.
pub type Digests = BTreeMap<String, Digest>;

/// What a checkpoint's tensors should be: from its manifest, or from a second, plain read of its files.
pub fn expected(checkpoint: &Checkpoint, cancel: &Cancel) -> Result<(Digests, &'static str)> {
    match &checkpoint.manifest {
        Some(manifest) => Ok((manifest.tensors.clone(), "the manifest's digests")),
        None => Ok((reread(checkpoint, cancel)?, "a second read of the files")),
    }
}

/// Digests of every tensor, read from the files without any engine.
pub fn reread(checkpoint: &Checkpoint, cancel: &Cancel) -> Result<Digests> {
    let reader = TensorReader::new(checkpoint.clone())?;
    let sizes: Vec<u64> = checkpoint.tensors.iter().map(|t| t.bytes).collect();
    let digests = read_digests(&sizes, &reader, cancel)?;
    Ok(checkpoint.tensors.iter().map(|t| t.name.clone()).zip(digests).collect())
}

/// Digests of tensors of these sizes, from one read of each.
pub fn read_digests(sizes: &[u64], source: &dyn TensorSource, cancel: &Cancel) -> Result<Vec<Digest>> {
    in_parts(sizes, cancel, |tensor, offset, bytes| {
        let mut part = vec![0u8; bytes as usize];
        source.fill(tensor, offset, &mut part)?;
        Ok(digest::partial(&part, offset))
    })
}

/// The tensors whose bytes are not what they should be, in words. Empty: all is well.
pub fn mismatches(
    names: &[&str],
    tensors: &[&[u8]],
    expected: &Digests,
    cancel: &Cancel,
) -> Result<Vec<String>> {
    let sizes: Vec<u64> = tensors.iter().map(|t| t.len() as u64).collect();
    let found = in_parts(&sizes, cancel, |tensor, offset, bytes| {
        Ok(digest::partial(&tensors[tensor][offset as usize..][..bytes as usize], offset))
    })?;
    Ok(names.iter().zip(found).filter_map(|(name, found)| differs(name, found, expected)).collect())
}

/// What verification found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The tensors that are wrong, in words.
    pub wrong: Vec<String>,
    /// Seconds that the digest kernel ran, and bytes that it digested; 0 for host memory.
    pub kernel_s: f64,
    pub kernel_bytes: u64,
}

/// Checks every tensor of a load. What lies on a GPU is digested there.
pub fn check(loaded: &Loaded, expected: &Digests, cancel: &Cancel) -> Result<Checked> {
    let copies = if loaded.is_replicated() { loaded.buffers.len() } else { 1 };
    let mut checked = Checked::default();
    for copy in 0..copies {
        let views: Vec<View> = (0..loaded.checkpoint.tensors.len()).map(|i| loaded.view(i, copy)).collect();
        check_views(&views, expected, &mut checked, cancel)?;
    }
    Ok(checked)
}

fn check_views(views: &[View<'_>], expected: &Digests, checked: &mut Checked, cancel: &Cancel) -> Result<()> {
    let on_host: Vec<(&str, &[u8])> =
        views.iter().filter_map(|v| Some((v.tensor.name.as_str(), v.host_bytes()?))).collect();
    let (names, bytes): (Vec<&str>, Vec<&[u8]>) = on_host.into_iter().unzip();
    checked.wrong.extend(mismatches(&names, &bytes, expected, cancel)?);
    let mut devices: Vec<(&DeviceBuffer, Vec<&View>)> = Vec::new();
    for view in views {
        let Buffer::Device(device) = view.buffer else { continue };
        match devices.iter_mut().find(|(d, _)| std::ptr::eq(*d, device)) {
            Some((_, views)) => views.push(view),
            None => devices.push((device, vec![view])),
        }
    }
    for (device, views) in devices {
        cancel.check()?;
        let ranges: Vec<(u64, u64)> = views.iter().map(|v| (v.offset, v.tensor.bytes)).collect();
        let (found, kernel_s) = kernels::digests(device, &ranges)?;
        checked.kernel_s += kernel_s;
        checked.kernel_bytes += ranges.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let wrong = views.iter().zip(found).filter_map(|(v, found)| differs(&v.tensor.name, found, expected));
        checked.wrong.extend(wrong);
    }
    Ok(())
}

/// What to say of a tensor with this digest; nothing if it is right.
pub fn differs(name: &str, found: Digest, expected: &Digests) -> Option<String> {
    match expected.get(name) {
        Some(wanted) if *wanted == found => None,
        Some(wanted) => Some(format!("tensor '{name}': digest {found}, expected {wanted}")),
        None => Some(format!("tensor '{name}': nothing to hold it against")),
    }
}

/// Digests things of these sizes on all cores, `partial(index, offset, bytes)` by part.
fn in_parts(
    sizes: &[u64],
    cancel: &Cancel,
    partial: impl Fn(usize, u64, u64) -> Result<u64> + Sync,
) -> Result<Vec<Digest>> {
    let parts: Vec<(usize, u64)> = sizes
        .iter()
        .enumerate()
        .flat_map(|(i, size)| (0..size.div_ceil(PART_BYTES)).map(move |p| (i, p * PART_BYTES)))
        .collect();
    let sums: Vec<AtomicU64> = sizes.iter().map(|_| AtomicU64::new(0)).collect();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let digest = |_: &mut (), number: usize| -> Result<()> {
        let (i, offset) = parts[number];
        let sum = partial(i, offset, PART_BYTES.min(sizes[i] - offset))?;
        sums[i].fetch_add(sum, Ordering::Relaxed);
        Ok(())
    };
    parallel::for_each(parts.len(), threads, cancel, || Ok(()), digest)?;
    Ok(sums.into_iter().zip(sizes).map(|(sum, bytes)| digest::finish(sum.into_inner(), *bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::cancel::Interrupted;

    #[test]
    fn ctrl_c_ends_a_verification() {
        let (cancel, expected) = (Cancel::new(), Digests::new());
        let verify = || mismatches(&["w"], &[&[1u8; 9][..]], &expected, &cancel);
        assert_eq!(verify().unwrap(), ["tensor 'w': nothing to hold it against"]);
        cancel.set();
        assert!(verify().unwrap_err().is::<Interrupted>());
    }
}

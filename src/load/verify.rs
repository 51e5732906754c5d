//! Digests of what lies in the destination, held against what was written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::checkpoint::reader::TensorSource;
use crate::gpu::kernels;
use crate::gpu::memory::DeviceBuffer;
use crate::load::parts::Part;
use crate::load::{Buffer, Loaded, View, reread};
use crate::os::cancel::Cancel;
use crate::os::digest;
use crate::os::digest::Digest;
use crate::os::parallel;

/// Bytes that one thread digests at a time: a multiple of 8.
const PART_BYTES: u64 = 16 << 20;

/// Digests by tensor name.
pub type Digests = BTreeMap<String, Digest>;

/// What the tensors of a load should be, and whence that is known: recorded when they were saved, made as they were read,
/// or, where neither is so, from a second, plain read of the files.
pub fn expected(loaded: &Loaded, cancel: &Cancel) -> Result<(Digests, &'static str)> {
    let recorded = loaded.checkpoint.manifest.as_ref().map(|manifest| &manifest.tensors);
    let (mut digests, against) = match (recorded, &loaded.read) {
        (Some(recorded), _) => (recorded.clone(), "the manifest's digests"),
        (None, Some(read)) => (read.clone(), "digests made as the bytes were read"),
        (None, None) => (Digests::new(), "a second read of the files"),
    };
    let whole = |tensor| Cow::Owned(Part::whole(tensor));
    let parts: Vec<Cow<'_, Part>> = match &loaded.parts {
        Some(parts) => parts.iter().map(Cow::Borrowed).collect(),
        None if recorded.is_some() => Vec::new(),
        None => loaded.checkpoint.tensors.iter().map(whole).collect(),
    };
    let is_unknown = |part: &&Part| !part.is_whole || !digests.contains_key(&part.tensor.name);
    let unknown: Vec<&Part> = parts.iter().map(Cow::as_ref).filter(is_unknown).collect();
    let found = reread::digests(&loaded.checkpoint, &unknown, cancel)?;
    digests.extend(unknown.iter().map(|part| part.tensor.name.clone()).zip(found));
    Ok((digests, against))
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
    let found = host_digests(tensors, cancel)?;
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
        let views: Vec<View> = (0..loaded.len()).map(|i| loaded.view(i, copy)).collect();
        check_views(&views, expected, &mut checked, cancel)?;
    }
    Ok(checked)
}

fn check_views(views: &[View<'_>], expected: &Digests, checked: &mut Checked, cancel: &Cancel) -> Result<()> {
    let (found, on_devices) = digests_of(views, cancel)?;
    checked.kernel_s += on_devices.kernel_s;
    checked.kernel_bytes += on_devices.kernel_bytes;
    let wrong =
        views.iter().zip(found).filter_map(|(view, found)| differs(&view.tensor.name, found, expected));
    checked.wrong.extend(wrong);
    Ok(())
}

/// The digests of these tensors of a load, in this order, made where they lie; of a replicated load, on the first GPU.
pub fn digests(loaded: &Loaded, numbers: &[usize]) -> Result<Vec<Digest>> {
    let views: Vec<View> = numbers.iter().map(|number| loaded.view(*number, 0)).collect();
    Ok(digests_of(&views, &Cancel::new())?.0)
}

/// The digest of each, in this order, and what the kernel did for those on GPUs.
fn digests_of(views: &[View<'_>], cancel: &Cancel) -> Result<(Vec<Digest>, Checked)> {
    let mut all = vec![digest::finish(0, 0); views.len()];
    let on_host = views.iter().enumerate().filter_map(|(i, view)| Some((i, view.host_bytes()?)));
    let (numbers, bytes): (Vec<usize>, Vec<&[u8]>) = on_host.unzip();
    numbers.into_iter().zip(host_digests(&bytes, cancel)?).for_each(|(i, found)| all[i] = found);
    let mut devices: Vec<(&DeviceBuffer, Vec<usize>)> = Vec::new();
    for (i, view) in views.iter().enumerate() {
        let Buffer::Device(device) = view.buffer else { continue };
        match devices.iter_mut().find(|(known, _)| std::ptr::eq(*known, device)) {
            Some((_, here)) => here.push(i),
            None => devices.push((device, vec![i])),
        }
    }
    let mut kernel = Checked::default();
    for (device, here) in devices {
        cancel.check()?;
        let ranges: Vec<(u64, u64)> =
            here.iter().map(|i| (views[*i].offset, views[*i].tensor.bytes)).collect();
        let (found, kernel_s) = kernels::digests(device, &ranges)?;
        kernel.kernel_s += kernel_s;
        kernel.kernel_bytes += ranges.iter().map(|(_, bytes)| bytes).sum::<u64>();
        here.into_iter().zip(found).for_each(|(i, found)| all[i] = found);
    }
    Ok((all, kernel))
}

/// The digests of these bytes, on all cores.
fn host_digests(tensors: &[&[u8]], cancel: &Cancel) -> Result<Vec<Digest>> {
    let sizes: Vec<u64> = tensors.iter().map(|t| t.len() as u64).collect();
    in_parts(&sizes, cancel, |tensor, offset, bytes| {
        Ok(digest::partial(&tensors[tensor][offset as usize..][..bytes as usize], offset))
    })
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
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::load::rings::Rings;
    use crate::load::run::load_task;
    use crate::load::task::Task;
    use crate::load::{Destination, Options, Select, Settings, Slice, into};
    use crate::os::cancel::Interrupted;

    /// Three tensors in a safetensors file, the last of them four bytes long.
    fn small() -> (tempfile::TempDir, Arc<Checkpoint>) {
        let dir = tempfile::tempdir().unwrap();
        let header = r#"{"a":{"dtype":"U8","shape":[3,40],"data_offsets":[0,120]},"b":{"dtype":"BF16","shape":[70],"data_offsets":[120,260]},"c":{"dtype":"F32","shape":[],"data_offsets":[260,264]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend((0..264u32).map(|i| (i * 7) as u8));
        std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
        let checkpoint = Arc::new(Checkpoint::read(dir.path()).unwrap());
        (dir, checkpoint)
    }

    #[test]
    fn damage_shows_against_digests_made_while_reading_and_against_a_second_read() {
        let (_dir, checkpoint) = small();
        let open = || Ok(checkpoint.clone());
        let options = Options::new(&Settings::default(), &Destination::Host, Err(None)).unwrap();
        for (digest, sliced) in [(true, false), (false, false), (false, true)] {
            let mut task = Task { digest, ..Task::whole(&open, &Destination::Host) };
            if sliced {
                let slice = Some(Slice { axis: 1, range: 3..30 });
                let slices = [("a".to_string(), slice), ("b".to_string(), None), ("c".to_string(), None)];
                let select = Select::Slices(slices.into());
                task.planned = Some(into::plan_slices(&checkpoint, &select, 0).unwrap());
            }
            let (mut loaded, _) = load_task(&task, &options, &Rings::default(), &Cancel::new()).unwrap();
            let (digests, against) = expected(&loaded, &Cancel::new()).unwrap();
            assert_eq!(against.contains("as the bytes were read"), digest, "{against}");
            assert_eq!(check(&loaded, &digests, &Cancel::new()).unwrap().wrong, [""; 0]);
            let offset = loaded.view(1, 0).offset as usize;
            loaded.buffers[0].host_mut().unwrap().as_mut_slice()[offset + 139] ^= 1;
            let wrong = check(&loaded, &digests, &Cancel::new()).unwrap().wrong;
            assert!(matches!(wrong.as_slice(), [one] if one.starts_with("tensor 'b': digest")), "{wrong:?}");
        }
    }

    #[test]
    fn ctrl_c_ends_a_verification() {
        let (cancel, expected) = (Cancel::new(), Digests::new());
        let verify = || mismatches(&["w"], &[&[1u8; 9][..]], &expected, &cancel);
        assert_eq!(verify().unwrap(), ["tensor 'w': nothing to hold it against"]);
        cancel.set();
        assert!(verify().unwrap_err().is::<Interrupted>());
    }
}

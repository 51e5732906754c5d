//! ServerlessLLM's layout: `tensor.data_0 … tensor.data_{P-1}` and `tensor_index.json`, which holds
//! `{name: [offset, size, shape, stride, dtype]}`. Offsets count bytes over all partitions laid end to end.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::indexed;
use crate::checkpoint::json;
use crate::checkpoint::json::UniquePairs;
use crate::checkpoint::listing;
use crate::checkpoint::listing::Bounds;
use crate::checkpoint::manifest_check;
pub use crate::checkpoint::names::{INDEX_FILE, partition_name};
use crate::checkpoint::names::{MANIFEST_FILE, is_weights};
use crate::checkpoint::{
    Checkpoint, Chosen, DType, DataFile, Layout, MAX_TOTAL_BYTES, Stamp, Tensor, contiguous_stride,
    element_count, finish, malformed,
};
use crate::os::sys::{self, DIRECT_ALIGN};

/// One line of the index: offset and size in bytes, shape and stride in elements, torch's dtype.
pub type IndexEntry = (u64, u64, Vec<u64>, Vec<u64>, String);

/// Whether a directory holds an index of ServerlessLLM's over its partitions. One over safetensors files makes no other
/// checkpoint of them.
pub(super) fn is_in(dir: &Path) -> Result<bool> {
    let index = dir.join(INDEX_FILE);
    let has_partitions = || dir.join(partition_name(0)).symlink_metadata().is_ok();
    match index.symlink_metadata() {
        Ok(_) => Ok(!indexed::is_marked(dir) || has_partitions()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(sys::at(&index)(e)).with_context(|| format!("look for {}", index.display())),
    }
}

pub(super) fn open(dir: &Path, storage_path: Option<&Path>) -> Result<Checkpoint> {
    let bounds = Bounds::new(dir, storage_path)?;
    let index = dir.join(INDEX_FILE);
    bounds.check(&index)?;
    let text = json::read_bytes(&index)?;
    let UniquePairs(entries) = json::parse::<UniquePairs<IndexEntry>>(&index, &text)?;
    let files = partitions(dir, &bounds)?;
    if files.is_empty() {
        return Err(malformed(&index, format!("{} is missing beside it", partition_name(0))));
    }
    let mut manifest = manifest_check::read(dir, &bounds)?;
    if let Some(manifest) = &manifest {
        if manifest.is_packed() {
            let what = format!("it is of packed weights, and {INDEX_FILE} of others stands beside it");
            return Err(malformed(&dir.join(MANIFEST_FILE), what));
        }
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        manifest_check::check(manifest, &dir.join(MANIFEST_FILE), &files, &names)?;
    }
    let mut tensors =
        entries.into_iter().map(|(name, entry)| tensor(&index, name, entry)).collect::<Result<Vec<_>>>()?;
    if let Some(manifest) = &mut manifest {
        manifest_check::check_index(manifest, &index, &text, &tensors)?;
        tensors = manifest_check::without_aliases(manifest, &index, tensors)?;
    }
    // Where the manifest says how long each file is, they are what they were.
    let (tensors, lost) = match manifest {
        Some(_) => (tensors, Vec::new()),
        None => whole_and_lost(&index, &files, tensors)?,
    };
    if manifest.is_none() && lost.is_empty() {
        check_partitions(&files, &tensors)?;
    }
    let mut left_out = listing::top(dir)?;
    left_out.retain(|name| is_weights(name) && !name.starts_with('.'));
    let checkpoint = Checkpoint {
        dir: dir.to_path_buf(),
        layout: Layout::Sllm,
        files,
        packed: None,
        tensors: tensors.into(),
        manifest: manifest.map(Arc::new),
        lost,
        chosen: Chosen { left_out, ..Chosen::default() },
        storage_path: storage_path.map(Path::to_path_buf),
    };
    let checkpoint = finish(checkpoint, &index)?;
    check_within_files(&checkpoint, &index)?;
    Ok(checkpoint)
}

/// Refuses a tensor that lies in two partitions.
pub(super) fn check_within_files(checkpoint: &Checkpoint, index: &Path) -> Result<()> {
    for tensor in checkpoint.tensors.iter().filter(|t| t.bytes > 0) {
        if checkpoint.file_at(tensor.offset) != checkpoint.file_at(tensor.end() - 1) {
            return Err(malformed(
                index,
                format!(
                    "tensor '{}' crosses from one partition into the next, which no writer does: a partition was cut \
                     short, or the index belongs to others",
                    tensor.name
                ),
            ));
        }
    }
    Ok(())
}

/// Tells the tensors that lie past the end of a single partition from those before it. Of several partitions, nobody
/// knows which is too short, and so what any later offset means: they are refused.
fn whole_and_lost(
    index: &Path,
    files: &[DataFile],
    tensors: Vec<Tensor>,
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let end_of_all = files.last().map_or(0, DataFile::end);
    let ends_within = |t: &Tensor| t.offset.checked_add(t.bytes).is_some_and(|end| end <= end_of_all);
    let (whole, mut lost): (Vec<Tensor>, Vec<Tensor>) = tensors.into_iter().partition(ends_within);
    lost.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    // No file could have held these: the index itself is damaged.
    if let Some(tensor) =
        lost.iter().find(|t| t.offset.checked_add(t.bytes).is_none_or(|e| e > MAX_TOTAL_BYTES))
    {
        let what = format!("tensor '{}' claims bytes {}+{}", tensor.name, tensor.offset, tensor.bytes);
        return Err(malformed(index, format!("{what}, more than any file system holds")));
    }
    if let (Some(tensor), [first, .., last]) = (lost.first(), files) {
        let needed_bytes = lost.iter().map(Tensor::end).max().unwrap_or(0) - end_of_all;
        return Err(malformed(
            index,
            format!(
                "tensor '{}' claims bytes {}+{}, but {} to {} end at {end_of_all}: {needed_bytes} bytes are missing. {} is \
                 missing, or one of those was cut short, and nobody can tell where the others' tensors lie then",
                tensor.name,
                tensor.offset,
                tensor.bytes,
                first.path.display(),
                last.path.display(),
                partition_name(files.len()),
            ),
        ));
    }
    // Padding is less than a page; a file of zeros for tensors without bytes is one.
    let used = whole.iter().map(Tensor::end).max().unwrap_or(0);
    if files.len() > 1 && lost.is_empty() && end_of_all - used > DIRECT_ALIGN {
        let what = format!(
            "its tensors end at byte {used}, and the {} partitions at {end_of_all}: one of them grew or is left from \
             another checkpoint, and nobody can tell where the others' tensors lie then; save the model again",
            files.len()
        );
        return Err(malformed(index, what));
    }
    Ok((whole, lost))
}

/// Offsets mean something only where each partition is as long as it was written, which without a manifest only its
/// tensors tell. ServerlessLLM's writer and ours begin a partition for the tensor that did not fit into the one before;
/// theirs pads each tensor to 8 bytes, ours each partition to a page. So each begins where a tensor does, and the tensors
/// before it end near.
fn check_partitions(files: &[DataFile], tensors: &[Tensor]) -> Result<()> {
    let mut ends: Vec<(u64, u64)> = tensors.iter().map(|t| (t.offset, t.end())).collect();
    ends.sort_unstable();
    let holds_none = |file: &&DataFile| ends.last().is_some_and(|(offset, _)| *offset < file.base);
    if let Some(file) = files.iter().skip(1).find(holds_none) {
        let what = match tensors.iter().find(|t| t.offset < file.base && t.end() > file.base) {
            Some(tensor) => format!(
                "the partitions do not fit the index: tensor '{}' would begin before it and end in it, so one of them is \
                 from another save, was cut short or grew; copy all of them anew, or save the model again",
                tensor.name
            ),
            None => "holds none of the index's tensors: remove it if it is left from an earlier save; if not, one before it \
                     grew, and all of them must be copied anew"
                .to_string(),
        };
        return Err(malformed(&file.path, what));
    }
    let is_paged = files.iter().all(|file| file.bytes.is_multiple_of(DIRECT_ALIGN));
    let padding = if is_paged { DIRECT_ALIGN } else { 7 };
    let follows = |i: usize| files.get(i + 1).map(|next| next.base);
    for (i, file) in files.iter().enumerate().filter(|_| files.len() > 1) {
        let from = ends.partition_point(|(offset, _)| *offset < file.base);
        let behind = ends.partition_point(|(offset, _)| *offset < file.end());
        let last_end = ends[from..behind].iter().map(|(_, end)| *end).max().unwrap_or(file.base);
        let ends_well = follows(i).is_none_or(|next| ends.get(behind).is_some_and(|(at, _)| *at == next));
        if !ends_well || file.end().saturating_sub(last_end) > padding {
            return Err(malformed(
                &file.path,
                format!(
                    "ends at byte {} of all {} partitions, where no tensor begins, or too far behind the last one (byte \
                     {last_end}): it was cut short or grew, and nobody can tell where the tensors behind it lie then; \
                     save the model again",
                    file.end(),
                    files.len()
                ),
            ));
        }
    }
    Ok(())
}

/// `tensor.data_0`, `tensor.data_1`, … until one is missing, laid end to end.
pub(super) fn partitions(dir: &Path, bounds: &Bounds) -> Result<Vec<DataFile>> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut base = 0u64;
    loop {
        let path = dir.join(partition_name(files.len()));
        let (bytes, stamp) = match path.metadata() {
            Ok(metadata) if metadata.is_file() => (metadata.len(), Stamp::of(&metadata)),
            Ok(_) => return Err(malformed(&path, "not a regular file")),
            Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => break,
            Err(e) => return Err(sys::at(&path)(e)).with_context(|| format!("stat {}", path.display())),
        };
        files.push(DataFile { path, base, bytes, header_bytes: 0, stamp });
        base = base.checked_add(bytes).ok_or_else(|| malformed(dir, "partitions exceed 2^64 bytes"))?;
    }
    files.iter().try_for_each(|file| bounds.check(&file.path))?;
    Ok(files)
}

/// A tensor of an entry, refused where its numbers can't be.
pub(super) fn tensor(index: &Path, name: String, entry: IndexEntry) -> Result<Tensor> {
    let (offset, bytes, shape, stride, dtype_name) = entry;
    let bad = |what: String| malformed(index, format!("tensor '{name}': {what}"));
    let Some(dtype) = DType::from_torch(&dtype_name) else {
        return Err(bad(format!("dtype '{dtype_name}' is not known here")));
    };
    if shape.len() != stride.len() {
        return Err(bad(format!("{} extents but {} strides", shape.len(), stride.len())));
    }
    let Some((shape, stride)) = from_torch(dtype, shape, stride) else {
        return Err(bad(format!("a view of '{dtype_name}' that parts its pairs, or too large a shape")));
    };
    let needed_bytes = storage_elements(&shape, &stride).and_then(|n| dtype.bytes_of(n));
    match needed_bytes {
        Some(needed_bytes) if needed_bytes <= bytes => {
            Ok(Tensor { name, dtype, shape, stride, offset, bytes })
        }
        Some(needed_bytes) => {
            Err(bad(format!("its shape needs {needed_bytes} bytes, and {bytes} are recorded")))
        }
        None => Err(bad(format!("its shape {shape:?} with strides {stride:?} overflows"))),
    }
}

/// Shape and strides as torch counts them: of F4, a pair is one element, so that the last axis is half as long. `None`
/// where torch has no such: a scalar of F4, or an odd number along its last axis.
pub fn to_torch(dtype: DType, shape: &[u64], stride: &[u64]) -> Option<(Vec<u64>, Vec<u64>)> {
    let (mut shape, mut stride) = (shape.to_vec(), stride.to_vec());
    if dtype == DType::F4 {
        let last = shape.last_mut().filter(|extent| extent.is_multiple_of(2))?;
        *last /= 2;
        if shape.contains(&0) {
            return Some((shape.clone(), contiguous_stride(&shape)));
        }
        let (step, outer) = stride.split_last_mut()?;
        let whole = *step == 1 && outer.iter().all(|step| step.is_multiple_of(2));
        whole.then_some(())?;
        outer.iter_mut().for_each(|step| *step /= 2);
    }
    Some((shape, stride))
}

/// The way back from [`to_torch`]; `None` for views that part the pairs, and on overflow.
fn from_torch(dtype: DType, mut shape: Vec<u64>, mut stride: Vec<u64>) -> Option<(Vec<u64>, Vec<u64>)> {
    if dtype == DType::F4 {
        let last = shape.last_mut()?;
        *last = last.checked_mul(2)?;
        let (step, outer) = stride.split_last_mut()?;
        (*step == 1).then_some(())?;
        for step in outer {
            *step = step.checked_mul(2)?;
        }
    }
    Some((shape, stride))
}

/// Elements that a strided view reaches: one past its farthest.
fn storage_elements(shape: &[u64], stride: &[u64]) -> Option<u64> {
    if element_count(shape)? == 0 {
        return Some(0);
    }
    let mut farthest = 0u64;
    for (extent, step) in shape.iter().zip(stride) {
        farthest = farthest.checked_add((extent - 1).checked_mul(*step)?)?;
    }
    farthest.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, size: u64, shape: &[u64], stride: &[u64], dtype: &str) -> IndexEntry {
        (offset, size, shape.to_vec(), stride.to_vec(), dtype.to_string())
    }

    #[test]
    fn entries_that_do_not_add_up_are_refused() {
        let index = Path::new("tensor_index.json");
        let make = |e| tensor(index, "w".into(), e).map_err(|e| e.to_string());
        assert!(make(entry(0, 8, &[2, 2], &[2, 1], "torch.float16")).is_ok());
        assert!(make(entry(0, 8, &[2, 2], &[1, 2], "torch.float16")).is_ok(), "transposed views are a thing");
        assert!(make(entry(0, 7, &[2, 2], &[2, 1], "torch.float16")).unwrap_err().contains("needs 8 bytes"));
        assert!(make(entry(0, 8, &[2, 2], &[2], "torch.float16")).unwrap_err().contains("strides"));
        assert!(make(entry(0, 8, &[2, 2], &[2, 1], "torch.quint8")).unwrap_err().contains("quint8"));
        let huge = 1 << 40;
        assert!(
            make(entry(0, 8, &[huge, huge], &[huge, 1], "torch.float16")).unwrap_err().contains("overflows")
        );
    }

    #[test]
    fn pairs_of_f4_are_torchs_elements() {
        let there = to_torch(DType::F4, &[3, 8], &[8, 1]).unwrap();
        assert_eq!(there, (vec![3, 4], vec![4, 1]));
        assert_eq!(from_torch(DType::F4, there.0, there.1).unwrap(), (vec![3, 8], vec![8, 1]));
        for odd in [&[][..], &[3]] {
            assert_eq!(to_torch(DType::F4, odd, &crate::checkpoint::contiguous_stride(odd)), None, "{odd:?}");
        }
        assert_eq!(to_torch(DType::F32, &[], &[]), Some((vec![], vec![])));
        let index = Path::new("tensor_index.json");
        let made =
            tensor(index, "w".into(), entry(0, 12, &[3, 4], &[4, 1], "torch.float4_e2m1fn_x2")).unwrap();
        assert_eq!((made.shape, made.bytes), (vec![3, 8], 12));
        let view = tensor(index, "w".into(), entry(0, 12, &[4, 3], &[1, 4], "torch.float4_e2m1fn_x2"));
        assert!(view.unwrap_err().to_string().contains("parts its pairs"));
    }

    #[test]
    fn reach_of_views() {
        assert_eq!(storage_elements(&[], &[]), Some(1));
        assert_eq!(storage_elements(&[2, 3], &[3, 1]), Some(6));
        assert_eq!(storage_elements(&[2, 0], &[3, 1]), Some(0));
        assert_eq!(storage_elements(&[u64::MAX], &[u64::MAX]), None);
    }
}

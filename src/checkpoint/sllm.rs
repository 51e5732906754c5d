//! ServerlessLLM's layout: `tensor.data_0 … tensor.data_{P-1}` and `tensor_index.json`, which holds
//! `{name: [offset, size, shape, stride, dtype]}`. Offsets count bytes over all partitions laid end to end.

use std::path::Path;

use anyhow::{Context, Result};

use super::json::{self, UniquePairs};
use super::manifest::{self, Manifest};
use super::{Checkpoint, DType, DataFile, Layout, Tensor, element_count, finish, malformed};

pub const INDEX_FILE: &str = "tensor_index.json";

/// The file name of one partition.
pub fn partition_name(index: usize) -> String {
    format!("tensor.data_{index}")
}

/// One line of the index: offset and size in bytes, shape and stride in elements, torch's dtype.
pub type IndexEntry = (u64, u64, Vec<u64>, Vec<u64>, String);

pub(super) fn open(dir: &Path) -> Result<Checkpoint> {
    let index = dir.join(INDEX_FILE);
    let UniquePairs(entries) = json::read::<UniquePairs<IndexEntry>>(&index)?;
    let files = partitions(dir, &index)?;
    let manifest = Manifest::read(dir)?;
    if let Some(manifest) = &manifest {
        manifest.check(&dir.join(manifest::FILE), &files, &entries)?;
    }
    let tensors =
        entries.into_iter().map(|(name, entry)| tensor(&index, name, entry)).collect::<Result<Vec<_>>>()?;
    let checkpoint = finish(
        Checkpoint { dir: dir.to_path_buf(), layout: Layout::Sllm, files, tensors, manifest },
        &index,
    )?;
    for tensor in checkpoint.tensors.iter().filter(|t| t.bytes > 0) {
        if checkpoint.file_at(tensor.offset) != checkpoint.file_at(tensor.end() - 1) {
            return Err(malformed(
                &index,
                format!(
                    "tensor '{}' crosses from one partition into the next, which no writer does",
                    tensor.name
                ),
            ));
        }
    }
    Ok(checkpoint)
}

/// `tensor.data_0`, `tensor.data_1`, … until one is missing.
fn partitions(dir: &Path, index: &Path) -> Result<Vec<DataFile>> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut base = 0u64;
    loop {
        let path = dir.join(partition_name(files.len()));
        let bytes = match path.metadata() {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return Err(malformed(&path, "not a regular file")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
            Err(e) => return Err(e).with_context(|| format!("stat {}", path.display())),
        };
        files.push(DataFile { path, base, bytes, header_bytes: 0 });
        base = base.checked_add(bytes).ok_or_else(|| malformed(index, "partitions exceed 2^64 bytes"))?;
    }
    if files.is_empty() {
        return Err(malformed(index, format!("{} is missing beside it", partition_name(0))));
    }
    Ok(files)
}

fn tensor(index: &Path, name: String, entry: IndexEntry) -> Result<Tensor> {
    let (offset, bytes, shape, stride, dtype_name) = entry;
    let bad = |what: String| malformed(index, format!("tensor '{name}': {what}"));
    let Some(dtype) = DType::from_torch(&dtype_name) else {
        return Err(bad(format!("dtype '{dtype_name}' is not known here")));
    };
    if shape.len() != stride.len() {
        return Err(bad(format!("{} extents but {} strides", shape.len(), stride.len())));
    }
    let needed_bytes = storage_elements(&shape, &stride).and_then(|n| n.checked_mul(dtype.bytes()));
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
    fn reach_of_views() {
        assert_eq!(storage_elements(&[], &[]), Some(1));
        assert_eq!(storage_elements(&[2, 3], &[3, 1]), Some(6));
        assert_eq!(storage_elements(&[2, 0], &[3, 1]), Some(0));
        assert_eq!(storage_elements(&[u64::MAX], &[u64::MAX]), None);
    }
}

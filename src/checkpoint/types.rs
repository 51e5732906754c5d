//! A checkpoint on disk, in either layout, opened and validated before anything is allocated.
//!
//! Its data files are laid end to end in one logical space: file `i` begins where file `i - 1` ends. A
//! tensor is a byte range of that space. In ServerlessLLM's layout these are the offsets of its own index;
//! in safetensors the headers are part of the space, and no tensor covers them.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::checkpoint::dtype::DType;
use crate::checkpoint::error::malformed;
use crate::checkpoint::packed::{Packed, PackedFile};
use crate::checkpoint::stamp::Stamp;

/// A tensor's name, type and shape: what is known before it has a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// As the checkpoint calls it.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Elements along each axis; empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// Bytes of the tensor's data, or `None` past 2^63 (hostile shapes).
    pub fn bytes(&self) -> Option<u64> {
        element_count(&self.shape).and_then(|n| self.dtype.bytes_of(n)).filter(|b| *b <= i64::MAX as u64)
    }
}

/// Elements of a shape; 1 for a scalar; `None` on overflow.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent))
}

/// A tensor in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tensor {
    /// As the checkpoint calls it; unique there.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Elements along each axis; empty for a scalar.
    pub shape: Vec<u64>,
    /// Elements between neighbours along each axis; only ServerlessLLM's index knows other than contiguous.
    pub stride: Vec<u64>,
    /// Where its bytes begin, counted from the first byte of the checkpoint: its files laid end to end, in their order.
    pub offset: u64,
    /// Bytes of its storage. Tied tensors share one offset.
    pub bytes: u64,
}

/// Strides of a contiguous tensor, in elements.
pub fn contiguous_stride(shape: &[u64]) -> Vec<u64> {
    let mut stride = vec![1u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        stride[axis - 1] = stride[axis].saturating_mul(shape[axis].max(1));
    }
    stride
}

/// One file of weights, and where it lies in the logical space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// Logical offset of its first byte.
    pub base: u64,
    /// Its size as `stat` gave it; of a packed file what it unpacks to.
    pub bytes: u64,
    /// Bytes before its first tensor byte (a safetensors header); 0 in ServerlessLLM's layout.
    pub header_bytes: u64,
    /// What it was before anything was read of it.
    pub stamp: Stamp,
}

impl DataFile {
    /// The logical offset just past its last byte.
    pub fn end(&self) -> u64 {
        self.base + self.bytes
    }

    /// Refuses a file that changed since the checkpoint was opened.
    pub fn check_unchanged(&self, handle: &File) -> Result<()> {
        self.stamp.check(&self.path, handle)
    }
}

/// How a checkpoint lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Layout {
    /// `tensor_index.json` and `tensor.data_0`, `tensor.data_1` and so on.
    Sllm,
    /// One or more safetensors files.
    Safetensors,
    /// Packed: `packed_index.json`, and `packed.data_0`, `packed.data_1` and so on, which unpack to what is known of them here.
    Packed,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Layout::Sllm => "sllm",
            Layout::Safetensors => "safetensors",
            Layout::Packed => "packed",
        })
    }
}

/// An opened checkpoint. Every tensor lies within the files as `stat` found them, which end before 2^62.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The directory, or the one file.
    pub dir: PathBuf,
    /// How it lies there.
    pub layout: Layout,
    /// Its weights, in the order in which they are laid end to end.
    #[doc(hidden)]
    pub files: Vec<DataFile>,
    /// Packed only: where the bytes of its files are. `files` says then what those unpack to.
    #[doc(hidden)]
    pub packed: Option<Arc<Packed>>,
    /// In the order of their offsets; names are unique.
    #[doc(hidden)]
    pub tensors: Arc<Vec<Tensor>>,
    /// Ours only: partition sizes, groups, digests.
    #[doc(hidden)]
    pub manifest: Option<Arc<crate::checkpoint::manifest::Manifest>>,
    /// Tensors of the index that lie past the end of the files. ServerlessLLM's saver loses what its last write holds
    /// when that fails, and says nothing.
    #[doc(hidden)]
    pub lost: Vec<Tensor>,
    /// How its files became the model.
    #[doc(hidden)]
    pub chosen: Chosen,
    /// Where its links may lead: the storage path that it was found below.
    pub(crate) storage_path: Option<PathBuf>,
}

/// What opening a safetensors directory decided.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// File name and text of the index that decided.
    pub index: Option<(String, String)>,
    /// Safetensors files beside that are no part of the model.
    pub left_out: Vec<String>,
    /// Safetensors files in folders that are no part of the model.
    pub below: Vec<String>,
    /// Another checkpoint of the name that was given, which was not taken.
    pub passed_over: Option<PathBuf>,
    /// Tensors that a shard holds and the index places in another, as (shard, name): not read.
    pub unread: Vec<(String, String)>,
    /// A single file was named, not a directory.
    pub single_file: bool,
    /// The only file, whose name or header says that it may be one of several.
    pub may_be_part: Option<String>,
    /// Several files that nothing says to be one model, or all of it.
    pub taken_together: Vec<String>,
    /// An index over the safetensors files that lies in their directory: what it was written over, and what belongs to it.
    pub indexed: Option<Arc<crate::checkpoint::indexed::Indexed>>,
    /// What speaks against the index being of these files, though all that it names is there.
    pub odd_index: Option<String>,
}

impl Checkpoint {
    /// Its tensors, in the order in which they lie in its files.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The names of its tensors, in the same order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The tensor of this name, if there is one. Looks at one after the other.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Bytes of all files, headers and padding included; of a packed checkpoint as they unpack.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of all files as they lie on disk: what a load of everything reads.
    pub fn stored_bytes(&self) -> u64 {
        (0..self.files.len()).map(|file| self.stored_file_bytes(file)).sum()
    }

    /// Bytes of one of its files as it lies on disk.
    #[doc(hidden)]
    pub fn stored_file_bytes(&self, file: usize) -> u64 {
        self.packed_file(file).map_or(self.files[file].bytes, PackedFile::stored_bytes)
    }

    /// How one of its files is packed, if it is.
    #[doc(hidden)]
    pub fn packed_file(&self, file: usize) -> Option<&PackedFile> {
        self.packed.as_ref()?.files.get(file)
    }

    /// Bytes of tensors, tied ones counted once: what a load delivers.
    pub fn tensor_bytes(&self) -> u64 {
        let mut covered_to = 0u64;
        let mut sum = 0u64;
        for tensor in self.tensors.iter() {
            let end = tensor.end();
            sum += end.saturating_sub(tensor.offset.max(covered_to));
            covered_to = covered_to.max(end);
        }
        sum
    }

    /// The file that holds this logical offset.
    #[doc(hidden)]
    pub fn file_at(&self, offset: u64) -> Option<usize> {
        let index = self.files.partition_point(|file| file.end() <= offset);
        (index < self.files.len()).then_some(index)
    }

    /// The tensors whose bytes meet `[start, end)` of the logical space.
    #[doc(hidden)]
    pub fn tensors_in(&self, start: u64, end: u64) -> impl Iterator<Item = &Tensor> {
        let meets = move |t: &&Tensor| t.offset < end && t.end() > start;
        self.tensors[self.places_near(start, end)].iter().filter(meets)
    }

    /// Where in `tensors` those stand whose bytes meet `[start, end)`, with empty ones among them. No search of all:
    /// tensors that have bytes share all of them or none, so that of those which begin before `start` only the last
    /// and its twins can reach beyond it.
    pub(crate) fn places_near(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let from = self.tensors.partition_point(|t| t.offset < start);
        let reach = |t: &&Tensor| t.bytes == 0 || t.end() > start;
        let before = self.tensors[..from].iter().rev().take_while(reach).count();
        let to = self.tensors.partition_point(|t| t.offset < end);
        from - before..to.max(from - before)
    }

    /// A file's path from the checkpoint's directory.
    #[doc(hidden)]
    pub fn name_of(&self, file: &DataFile) -> String {
        file.path.strip_prefix(&self.dir).unwrap_or(&file.path).to_string_lossy().into_owned()
    }
}

/// No file system holds more. Below it a few sizes can be added without a check.
pub(crate) const MAX_TOTAL_BYTES: u64 = 1 << 62;

/// Holds for every layout: sorts the tensors and refuses what no reader could serve.
pub(crate) fn finish(mut checkpoint: Checkpoint, index: &Path) -> Result<Checkpoint> {
    Arc::make_mut(&mut checkpoint.tensors)
        .sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    let end_of_all = checkpoint.files.last().map_or(0, DataFile::end);
    if end_of_all > MAX_TOTAL_BYTES {
        bail!(malformed(
            index,
            format!("its files claim {end_of_all} bytes, more than any file system holds")
        ));
    }
    let mut covered: (u64, u64, &str) = (0, 0, "");
    for tensor in checkpoint.tensors.iter() {
        let end = tensor.offset.checked_add(tensor.bytes).filter(|end| *end <= end_of_all).ok_or_else(|| {
            malformed(
                index,
                format!(
                    "tensor '{}' claims bytes {}+{}, but the files end at {end_of_all}; the files were cut short, or \
                     the index belongs to others",
                    tensor.name, tensor.offset, tensor.bytes
                ),
            )
        })?;
        let tied = tensor.offset == covered.0 && end == covered.1;
        if tensor.bytes > 0 && tensor.offset < covered.1 && !tied {
            bail!(malformed(
                index,
                format!("tensors '{}' and '{}' overlap at byte {}", covered.2, tensor.name, tensor.offset)
            ));
        }
        if end > covered.1 {
            covered = (tensor.offset, end, &tensor.name);
        }
    }
    Ok(checkpoint)
}

impl Tensor {
    /// The logical offset just past its last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// Bytes of its elements, laid side by side. Its storage (`bytes`) may be larger: ServerlessLLM records that of
    /// the tensor which a view was cut from. A view whose elements share bytes may need more than it has.
    pub fn data_bytes(&self) -> u64 {
        element_count(&self.shape).and_then(|n| self.dtype.bytes_of(n)).unwrap_or(u64::MAX)
    }

    /// Whether its data are the first [`Tensor::data_bytes`] of its storage, as they are.
    pub fn is_contiguous(&self) -> bool {
        let bytes = self.data_bytes();
        bytes <= self.bytes && (bytes == 0 || stride_is_contiguous(&self.shape, &self.stride))
    }
}

/// Axes of extent 1 may have any stride.
fn stride_is_contiguous(shape: &[u64], stride: &[u64]) -> bool {
    let wanted = contiguous_stride(shape);
    shape.iter().zip(stride).zip(&wanted).all(|((extent, have), want)| *extent == 1 || have == want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_shapes_have_no_size() {
        let spec = |shape: &[u64]| TensorSpec { name: "x".into(), dtype: DType::F32, shape: shape.to_vec() };
        assert_eq!(spec(&[]).bytes(), Some(4));
        assert_eq!(spec(&[3, 0]).bytes(), Some(0));
        assert_eq!(spec(&[u64::MAX, 2]).bytes(), None);
        assert_eq!(spec(&[1 << 62]).bytes(), None);
    }

    #[test]
    fn strides() {
        assert_eq!(contiguous_stride(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(contiguous_stride(&[]), [0u64; 0]);
        assert!(stride_is_contiguous(&[1, 4], &[99, 1]));
        assert!(!stride_is_contiguous(&[4, 2], &[1, 4]));
    }
}

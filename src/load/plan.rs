//! A plan is pure data: which byte range of which file goes to which offset of which destination.
//!
//! Segments are 4 KiB-aligned supersets in the file and in the destination, so that `O_DIRECT` and cuFile
//! can move them as they are; the bytes around the tensors land in room that nobody reads.

use anyhow::{Result, bail};

use crate::checkpoint::modules::{cut, module_of};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// A run of one file that lands in one destination. Offsets are multiples of 4 KiB; `bytes` is one too,
/// unless the file ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub file: usize,
    pub file_offset: u64,
    pub bytes: u64,
    pub destination: usize,
    pub dest_offset: u64,
}

/// Where a tensor will lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub destination: usize,
    pub offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By destination, then by offset there; none overlap.
    pub segments: Vec<Segment>,
    /// Bytes to allocate for each destination: multiples of 4 KiB.
    pub destination_bytes: Vec<u64>,
    /// A place for each tensor of the checkpoint, in its order.
    pub places: Vec<Place>,
}

impl Plan {
    /// Shares a checkpoint out to `destinations`: group by group where it was saved with as many groups, else
    /// cut by bytes at module boundaries.
    pub fn new(checkpoint: &Checkpoint, destinations: usize) -> Result<Plan> {
        if destinations == 0 {
            bail!("a load needs at least one destination");
        }
        let owner = owners(checkpoint, destinations)?;
        let mut plan = Plan {
            segments: Vec::new(),
            destination_bytes: vec![0; destinations],
            places: vec![Place { destination: 0, offset: 0 }; checkpoint.tensors.len()],
        };
        for destination in 0..destinations {
            for file in 0..checkpoint.files.len() {
                plan.add_segment(checkpoint, &owner, destination, file);
            }
        }
        Ok(plan)
    }

    /// Adds the smallest aligned run of `file` that holds this destination's tensors, and places them.
    fn add_segment(&mut self, checkpoint: &Checkpoint, owner: &[usize], destination: usize, file: usize) {
        let data = &checkpoint.files[file];
        let within = |t: &Tensor| t.bytes > 0 && t.offset >= data.base && t.offset < data.end();
        let mine = || {
            let from = checkpoint.tensors.partition_point(|t| t.offset < data.base);
            let candidates = checkpoint.tensors.iter().enumerate().skip(from);
            candidates
                .take_while(|(_, t)| t.offset < data.end())
                .filter(move |(i, t)| owner[*i] == destination && within(t))
        };
        let Some((_, first)) = mine().next() else { return };
        let last_end = mine().map(|(_, t)| t.end()).max().unwrap_or(first.end());
        let start = (first.offset - data.base) & !(DIRECT_ALIGN - 1);
        let end = align_up(last_end - data.base, DIRECT_ALIGN).min(data.bytes);
        let dest_offset = self.destination_bytes[destination];
        for (i, tensor) in mine() {
            self.places[i] = Place { destination, offset: dest_offset + (tensor.offset - data.base - start) };
        }
        self.destination_bytes[destination] = dest_offset + align_up(end - start, DIRECT_ALIGN);
        self.segments.push(Segment {
            file,
            file_offset: start,
            bytes: end - start,
            destination,
            dest_offset,
        });
    }

    /// Bytes that will be read.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }
}

/// The destination of each tensor. Tied tensors stay together: they share an offset, so they are neighbours
/// in the checkpoint's order, and a cut goes between different bytes only.
fn owners(checkpoint: &Checkpoint, destinations: usize) -> Result<Vec<usize>> {
    let groups = checkpoint.manifest.as_ref().map(|m| m.groups.as_slice()).unwrap_or_default();
    if groups.len() == destinations {
        // Looked up once a file, not once a tensor.
        let mut group_of_file = vec![0; checkpoint.files.len()];
        for (group, file) in
            groups.iter().enumerate().flat_map(|(g, files)| files.iter().map(move |f| (g, *f)))
        {
            if let Some(entry) = group_of_file.get_mut(file) {
                *entry = group;
            }
        }
        let owner = |t: &Tensor| checkpoint.file_at(t.offset).map_or(0, |file| group_of_file[file]);
        return Ok(checkpoint.tensors.iter().map(owner).collect());
    }
    let mut sized: Vec<(&str, u64)> = Vec::new();
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        match i.checked_sub(1).map(|before| &checkpoint.tensors[before]) {
            // A twin counts no bytes and takes its twin's module, so that no cut can part them.
            Some(twin) if twin.offset == tensor.offset => {
                let module = sized[i - 1].0;
                let more = tensor.bytes - twin.bytes;
                sized.push((module, more));
            }
            _ => sized.push((module_of(&tensor.name), tensor.bytes)),
        }
    }
    let mut owner = Vec::with_capacity(sized.len());
    if sized.is_empty() {
        return Ok(owner);
    }
    for (destination, end) in cut(&sized, destinations)?.into_iter().enumerate() {
        owner.resize(end, destination);
    }
    Ok(owner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::{Chosen, DType, DataFile, Layout, contiguous_stride};
    use proptest::prelude::*;

    /// A checkpoint of these files (header bytes, tensor sizes), with gaps of up to 7 bytes between tensors.
    pub fn checkpoint(files: &[(u64, Vec<u64>)]) -> Checkpoint {
        let mut made = Checkpoint {
            dir: "x".into(),
            layout: Layout::Sllm,
            files: vec![],
            tensors: vec![],
            manifest: None,
            lost: vec![],
            chosen: Chosen::default(),
            storage_path: None,
        };
        let mut base = 0;
        for (f, (header_bytes, sizes)) in files.iter().enumerate() {
            let mut at = *header_bytes;
            for size in sizes {
                let shape = vec![*size];
                let name = format!("layers.{}.t{}", made.tensors.len() / 3, made.tensors.len());
                let stride = contiguous_stride(&shape);
                made.tensors.push(Tensor {
                    name,
                    dtype: DType::U8,
                    shape,
                    stride,
                    offset: base + at,
                    bytes: *size,
                });
                at += size + size % 8;
            }
            made.files.push(DataFile {
                path: format!("f{f}").into(),
                base,
                bytes: at,
                header_bytes: *header_bytes,
                stamp: Default::default(),
            });
            base += at;
        }
        made
    }

    fn any_files() -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
        prop::collection::vec((0u64..9000, prop::collection::vec(0u64..20_000, 0..12)), 1..5)
    }

    proptest! {
        /// Found by halving, against a look at each: among empty tensors and twins, wherever those lie.
        #[test]
        fn tensors_of_a_range_are_those_that_meet_it(
            files in any_files(), empty in prop::collection::vec(0u64..60_000, 0..6),
            twins in prop::collection::vec(0usize..40, 0..4), start in 0u64..80_000, bytes in 0u64..30_000,
        ) {
            let mut checkpoint = checkpoint(&files);
            let more: Vec<Tensor> = twins.iter().filter_map(|i| checkpoint.tensors.get(*i).cloned()).collect();
            let Some(one) = checkpoint.tensors.first().cloned() else { return Ok(()) };
            checkpoint.tensors.extend(more);
            checkpoint.tensors.extend(empty.into_iter().map(|offset| Tensor { offset, bytes: 0, ..one.clone() }));
            checkpoint.tensors.sort_by_key(|t| (t.offset, t.bytes));
            let end = start + bytes;
            let meets = |t: &&Tensor| t.offset < end && t.end() > start;
            let wanted: Vec<&Tensor> = checkpoint.tensors.iter().filter(meets).collect();
            let found: Vec<&Tensor> = checkpoint.tensors_in(start, end).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn every_tensor_is_covered_once_where_its_place_says(files in any_files(), destinations in 1usize..5) {
            let checkpoint = checkpoint(&files);
            let Ok(plan) = Plan::new(&checkpoint, destinations) else { return Ok(()) };
            for s in &plan.segments {
                prop_assert_eq!(s.file_offset % DIRECT_ALIGN, 0);
                prop_assert_eq!(s.dest_offset % DIRECT_ALIGN, 0);
                let file = &checkpoint.files[s.file];
                prop_assert!(s.file_offset + s.bytes <= file.bytes);
                prop_assert!(s.bytes % DIRECT_ALIGN == 0 || s.file_offset + s.bytes == file.bytes);
                prop_assert!(s.dest_offset + align_up(s.bytes, DIRECT_ALIGN) <= plan.destination_bytes[s.destination]);
            }
            for pair in plan.segments.windows(2).filter(|p| p[0].destination == p[1].destination) {
                prop_assert!(pair[0].dest_offset + align_up(pair[0].bytes, DIRECT_ALIGN) <= pair[1].dest_offset);
            }
            for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places).filter(|(t, _)| t.bytes > 0) {
                let held = plan.segments.iter().filter(|s| {
                    let base = checkpoint.files[s.file].base + s.file_offset;
                    s.destination == place.destination
                        && base <= tensor.offset && tensor.end() <= base + s.bytes
                        && s.dest_offset + (tensor.offset - base) == place.offset
                });
                prop_assert_eq!(held.count(), 1);
            }
        }
    }
}
